"""The inference engine: many streams over one llama.cpp context, each prefix read once.

native      the model file: weights, vocabulary, chat template
context     what llama.cpp keeps of what was read: sequences, batches, saved states
sampling    which token comes next, and where the text ends
lookup      what an answer is likely to copy next from its prompt
grammar     texts of one form only: GBNF and JSON schema
task        one prompt on its way through the context
states      read prefixes as saved states, in memory; files: the same on disk
batch       what one step reads, of which tasks
prefix      which prefixes are read already, in the context or saved; ahead: read before anybody asks
scheduler   the one thread that owns the context
generator   `LlamaGenerator`, the seam to the pipeline
worker      the process that runs the model for a server
guarded     its keeper in the server's process: `GuardedGenerator`
child       one life of that process
frames      what the two say to each other
"""
