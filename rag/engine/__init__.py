"""The inference engine.

worker      the process that runs the model for a server
guarded     its keeper in the server's process: `GuardedGenerator`
child       one life of that process
frames      what the two say to each other
"""
