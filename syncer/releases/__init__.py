"""Virtual clusters as their operator sees them: releases of the chart in namespaces of a host cluster.

What commands do lives here, without argparse and without printing. Decisions are pure functions on the objects that the host has.
"""
