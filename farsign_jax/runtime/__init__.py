"""A parameter server whose workers are other processes, possibly on other machines.

The simulator predicts what happens; here it happens. A server process holds x and y and
applies every answer as it arrives, without a barrier and without a buffer. It uses the same
`query`, `respond` and `update` functions as the simulator, and it records every answer that it
accepts, so that `replay` can repeat the run in the simulator bit for bit.

    core.py              the server's side of the conversation, without any I/O
    worker.py            the worker's side of the conversation, without any I/O
    state_machine.py     x, y and the effect of an answer on them: any server, compiled
    numpy_server.py, numpy_vote.py, numpy_floats.py
                         the same for `far_sign` in NumPy: faster, with the same bits
    run_config.py        what server and workers make of the configuration of a run
    session.py           questions, replies, sessions
    limits.py            limits on what a worker may do, and how often
    delta_history.py     which coordinates of x have changed since a given version
    journal.py, store.py the files of a run: arrivals, checkpoints, strikes
    replay.py            repeats a recorded run in the simulator
    service.py           what every server does besides the conversation
    metrics.py           Prometheus metrics
    messages.py          messages as bytes (messages.proto)
    connection.py, tls.py, grpc_server.py, grpc_worker.py
                         the conversation over a network (extra `grpc`)
    ray_server.py        the conversation with trusted Ray actors (extra `ray`)
    serve.py, work.py, on_ray.py
                         the commands
"""
