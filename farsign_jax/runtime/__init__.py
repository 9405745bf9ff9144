"""The real thing: a parameter server whose workers are other processes, on other machines.

`simulate` says what would happen; here it happens. A server process holds x and y and hears
each answer as it comes; no barrier, no buffer. The three lines of the conversation are the
same functions (`base`), and every answer that is accepted is logged, so that `replay` leads
the simulator through the same run to the same bits.

    run_config.py    what server and workers make of the configuration of a run
    machines.py      x and y and what an answer does to them: any server, compiled
    on_host.py       the same for plain `far_sign` in NumPy, to the same bits, in less time
    core.py          the server's side of the conversation, without any I/O
    limits.py        what a worker may do, and how often; history.py, what changed since
    answers.py       the worker's side
    log.py, store.py what is on disk: arrivals, checkpoints, strikes
    replay.py        a recorded run, led through `simulate`
    wire.py          messages as bytes (wire.proto)
    grpc_server.py, grpc_worker.py, certificates.py, terms.py   over a network, extra `grpc`
    ray_server.py  among Ray actors that are trusted, extra `ray`
    serving.py     what both servers do beside the conversation; metrics.py, for who watches
    serve.py, work.py, on_ray.py, command.py   the commands
"""
