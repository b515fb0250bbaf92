"""How German and French ask for more than a phrase, for `rag.form`: patterns of a question's beginning.

Closed words alone, as there: who asks "wie" or "comment" asks for a measure, a name or a way, and the verb behind it or
the lack of an adjective tells which.
"""

# What people put before the question itself. Spaces are single here, and it is bounded as that of English is.
_GERMAN_POLITE = (
    r"(?:(?:und|aber|also|bitte|kannst|könntest|können|könnten|du|sie|ihr|mir|uns|ich|möchte|will|würde|gern|gerne"
    r"|wissen|verstehen|mal|kurz|genau|nur)\W+){0,12}"
)
_GERMAN_VERB = (
    r"(?:kann|können|könnte|könnten|muss|müssen|soll|sollen|sollte|sollten|darf|dürfen|wird|werden|wurde|wurden|habe"
    r"|haben|hat|hatte|hatten|geht|gehen|ging|kommt|kommen|kam|kamen|funktioniert|funktionieren|funktionierte|entsteht"
    r"|entstehen|entstand|entstanden|macht|mache|machen|läuft|lief|wirkt|wirken|bekomme|bekommt|bekommen)"
)
_GERMAN_NAMED = (
    rf"wie {_GERMAN_VERB}\b.*\b(?:genannt|bezeichnet|geschrieben|geheißen|ausgesprochen|buchstabiert|abgekürzt"
    r"|nennen|schreiben|aussprechen)\b"
)
GERMAN_MANNER = rf"{_GERMAN_POLITE}(?!{_GERMAN_NAMED})wie (?:genau )?{_GERMAN_VERB}\b"
_GERMAN_KINDS = (
    r"(?:vorteile|nachteile|vor- und nachteile|gründe|ursachen|folgen|auswirkungen|unterschiede|gemeinsamkeiten"
    r"|merkmale|eigenschaften|schritte|symptome|risiken|gefahren|voraussetzungen|anforderungen|möglichkeiten|argumente)"
)
_GERMAN_ORDER = (
    r"(?:erklären?|erklärt|beschreiben?|beschreibt|erläutern?|erläutere|vergleichen?|vergleiche|begründen?|begründe"
    r"|skizzieren?|auflisten|liste|zähle|fasse)\b"
)
GERMAN = (
    rf"{GERMAN_MANNER}"
    rf"|{_GERMAN_POLITE}(?:warum|wieso|weshalb|weswegen|{_GERMAN_ORDER}"
    rf"|(?:was (?:sind|waren)|welche) (?:\w+ ){{0,4}}{_GERMAN_KINDS}\b"
    r"|aus welchen gründen|worin (?:besteht|liegt) der unterschied"
    r"|was ist der unterschied|(?:der )?unterschiede? zwischen|(?:worin|wodurch|wie) unterscheide[nt]"
    r"|was (?:passiert|geschieht|geschah)|was (?:soll|sollte|kann|muss) (?:ich|man) (?:tun|machen))\b"
    r"|(?:kannst|könntest|können|könnten|würdest|würden) (?:du|sie)\b.*\b(?:erklären|beschreiben|erläutern|vergleichen"
    r"|zusammenfassen|auflisten)\b"
)

_FRENCH_POLITE = (
    r"(?:(?:et|mais|alors|donc|peux-tu|pouvez-vous|pourriez-vous|pourrais-tu|je|voudrais|veux|savoir|comprendre|dis-moi"
    r"|dites-moi|s['’]il (?:te|vous) pla[iî]t|bien|juste)\W+){0,12}"
)
_FRENCH_NAMED = (
    r"comment (?:s['’](?:appel|écri)|se (?:nomm|prononc|dit)|(?:appel|nomm|prononc|écri|épel|di)\w+-t?-?(?:on|il)\b"
    r"|(?:est|sont|était|étaient)-(?:il|elle|on)s? (?:appel|nomm|surnomm)|est-ce qu['’]on (?:appelle|nomme|dit))"
)
# "Comment" is an English word, too: French words or an infinitive stand behind the French one.
_FRENCH_VERB = (
    r"(?:(?:[^\W\d_]+['’ -]){0,3}?(?:le|la|les|l|un|une|des|du|de|cela|ça|ce|cette|ces|son|sa|ses|mon|ma|mes|on|il|elle"
    r"|ils|elles|je|tu|nous|vous|se|s|à|y)\b|[^\W\d_]+(?:er|ir|re)\b)"
)
FRENCH_MANNER = rf"{_FRENCH_POLITE}(?!{_FRENCH_NAMED})comment (?!on\b){_FRENCH_VERB}"
_FRENCH_KINDS = (
    r"(?:avantages|inconvénients|causes|raisons|conséquences|effets|différences|similitudes|points communs|étapes"
    r"|symptômes|risques|dangers|conditions|caractéristiques|arguments|façons|moyens)"
)
FRENCH = (
    rf"{FRENCH_MANNER}"
    rf"|{_FRENCH_POLITE}(?:pourquoi"
    r"|(?:m['’]|nous )?(?:expli|décri|compar|résum|énum[eé]r|détaill)(?:que|quez|quer|s|vez|re|e|ez|er)(?:-moi|-nous)?"
    rf"|(?:quels|quelles) (?:sont|étaient|furent) (?:\w+ ){{0,4}}{_FRENCH_KINDS}"
    r"|pour quelles raisons"
    r"|quelle est la différence|(?:la )?différences? entre|que se passe-t-il|que s['’]est-il passé|qu['’]arrive-t-il"
    r"|que (?:dois-je|doit-on|faut-il|puis-je|peut-on) faire|en quoi)\b"
)
STEPS = r"\b(?:schritte|anleitung|rezept|étapes|recette|marche à suivre)\b"
