"""`make demo`: one cloud and three edges as real processes, real faults, and a proof read from their stores.

`series` is the input and `feed` the programs that write it to the edges; `cast` runs the services and `script` says what
happens to them; `stores` reads what every journal holds in the end, and `proof` and `timing` compare, purely; `findings`
and `play` put these together, `show` tells the story, `closing` draws the tables.
"""
