"""Other libraries' shapes of what eeflib has: a module per library, imported on use.

`gymnasium`: an environment as a `gymnasium.Env`. `verifiers`: environments and tasks as a
`verifiers` environment with our reward as its rubric.
"""
