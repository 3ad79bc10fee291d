"""The local stack: a real broker and the services, run for whoever uses one data directory.

Nobody should have to start a server before the first `put`, and nobody should find one still
running afterwards. So the first user of a data directory starts a detached supervisor, which owns
the broker and the services as child processes; later users join; when the last one has left, by
returning or by `kill -9`, the supervisor ends everything.

All of it hangs on advisory file locks (`flock`), because the kernel releases those of a dead
process, however it died, where pid files and sockets stay behind:

    locks/supervisor.lock   exclusive: one supervisor; a user takes it and hands it down to it
    locks/ready.lock        exclusive while `stack.json` is true: the broker answers
    locks/users.lock        shared by the users; the supervisor ends when it gets it exclusively
    locks/<child>.lock      handed down to each child, so that one that outlived a killed
                            supervisor is seen, and ended, before the next is started

Lock files are never deleted: two processes could then hold "the same" lock on two files.
Linux and macOS; elsewhere start a nats-server yourself and set BLACKBOARD_URL.
"""

from blackboard.local.stack import DEFAULT_PORT, Endpoint, join, read_endpoint

__all__ = ["DEFAULT_PORT", "Endpoint", "join", "read_endpoint"]
