"""Everything in an episode that does not depend on actions: requests, tenants, the co-tenant's memory.

Start reading at `scenario.py`. Nothing here knows about actions, engines or rewards.
"""
