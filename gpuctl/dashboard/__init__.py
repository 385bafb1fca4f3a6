"""`gpuctl watch`: a screen that is left open all day, and costs next to nothing while nothing changes.

Data flows one way. `source` asks gpud and keeps what it said (`Seen`); `board` is what the person has chosen, and what
a key does to it; `frame` makes lines of both, without asking anybody, the clock included; `terminal` writes those that
changed. `loop` joins them. Nothing but `loop` knows that there is one gpud: several are several sources.
"""
