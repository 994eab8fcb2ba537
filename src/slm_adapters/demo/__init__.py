"""The demo: a support desk as a crew and as a graph."""
