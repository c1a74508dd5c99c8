"""The parts of `eeflib.train`: settings, batches, loss, loop, checkpoints, backends."""
