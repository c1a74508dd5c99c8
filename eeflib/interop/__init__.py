"""Other libraries' shapes of what eeflib has: a module per library, imported on use.

`gymnasium`: an environment as a `gymnasium.Env`.
"""
