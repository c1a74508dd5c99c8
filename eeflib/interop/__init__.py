"""eeflib's environments and records, to other libraries and from them.

`gymnasium`: an environment as a `gymnasium.Env`; `verl_agent`: WebShop in verl-agent's batches.
`read` (with `formats` and `sources`): trajectories that others recorded; `imported`: a run of them.
"""
