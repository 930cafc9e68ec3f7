"""Both services in one process from a seed, with faults and checkers.

``plan`` is what a seed decides; ``world`` and ``hosts`` are made from it and run the real ``serve`` of both services
over ``disks`` and memory lines; ``workload`` and ``faults`` play with them; ``referee`` feeds ``checkers`` with every
commit and every message; ``run`` puts them together. ``mutations`` remove protections to see the checkers see it.
"""
