"""The steps of a campaign, one a file, each a function over one state.

:mod:`tuner.campaign` says in which order they run. Steps that propose never measure; steps that
measure never propose.
"""
