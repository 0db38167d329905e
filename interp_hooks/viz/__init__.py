"""Figures over labelled tables, attention patterns, and self-contained HTML reports.

tokens      how a token is shown: escaped, whitespace visible
style       colours, fonts, the names of axes and metrics; given to each figure, never set globally
figures     heatmap (two axes) and bars (one axis) of a Result
circuits    the nodes and edges of a Circuit, layer by layer
attention   one attention pattern over its tokens
report      sections of text, figures and tables in one file that opens offline
"""
