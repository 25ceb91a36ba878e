"""`make chaos`: a small network whose processes are killed and whose links are cut, and a checker that says
afterwards, from what the processes wrote down alone, whether anything was lost or doubled.

    plan     what goes wrong and when, from a seed          proxy    the links, which can be cut
    app      an app that writes down all it does            fleet    the processes, started and killed
    ledger   those files                                    checker  the judgement, and its table
"""
