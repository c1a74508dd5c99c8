"""eeflib's environments in the form that other libraries expect: a module per library.

`gymnasium`: an environment as a `gymnasium.Env`.
"""
