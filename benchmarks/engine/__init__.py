"""The inference engine beside its peers, in one run: same GGUF file, same questions, greedy.

    python -m benchmarks.engine                           what `make bench-engine` runs
    python -m benchmarks.engine --data ../shared/data/squad2-small --runs 7
    python -m benchmarks.engine --skip-peers --quick      a minute, to see that it works
    python -m benchmarks.engine --soak                    the 1,000 streamed answers as well

Peers: `llama-server` (llama.cpp's own server, through xllamacpp) and `llama-cpp-python` (its Python server), each in an
environment of its own (`scripts/peers.py`). Ours is asked through the `stream` seam, the peers over HTTP on loopback:
what an empty round trip costs them is printed. The systems take turns at every question, so that the machine's moods
fall on all alike; figures are medians with quartiles. `ratios.RATIOS` has what each ratio divides by what.

Histories, where it matters what was read before:
  seen    a passage was read for an earlier question; now it is the best passage of another one. Ours reads it in a
          prompt of its own, the peers in the usual prompt of three passages, each time as retrieved for the question at
          hand. Two easier histories for the peers are printed beside it: the same three passages in the same order
          with another question (`ttft_seen_order`), and the very same prompt (`ttft_seen_prompt`).
  cold    the prompt of three passages, the same for all systems, beginning with a word that nobody has seen.
"""
