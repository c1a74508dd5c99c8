"""Views of a run: plain states, and pure functions state -> HTML. No widget, no browser needed.

Every view is a frozen state, the things it shows, and `render`, its static twin: what tests,
exports and saved notebooks show. `eeflib.analysis.widgets` puts controls around the same states.
"""
