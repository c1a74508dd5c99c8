"""Records as frames, figures and HTML: reads a run, changes nothing."""
