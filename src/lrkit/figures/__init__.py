"""Arrays → matplotlib axes. Knows no other room: not what a Run is, nor a schedule.

`style` holds the colours and how a figure becomes SVG or PNG, `charts` the drawings.
"""
