"""Configurations: everything that decides the numbers of a run or of a panel of runs.

`RunConfig` describes one run, and `PanelConfig` methods x aggregators x attacks x seeds. Their
common fields are those of `settings.RunSettings`. `checks` refuses what cannot run; `problem`,
`schedules` and `systems` make the data, the order of arrivals and the server and workers of a
configuration, and `sweep_specs` the sweeps that run it.
"""
