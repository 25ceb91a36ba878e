"""What every process of a node does alike: its directories and their locks, its sockets' file modes, its end
together with its parent, logging, signals, exit codes, its figures in /proc, its command line.

Standard library and `ipc_schema` only, and no event loop: kernel, Messaging API, gateway and launcher all
build on it.

    main           from the command line to the exit code
    claim          directories, locks and socket paths, taken before anything else
    directories    private directories
    lock           who owns a directory
    endpoints      which endpoints may be bound, and under which umask
    parent_watch   the end of a process together with its parent
    logs           logging that never waits for its reader (`output` is the queue, `log_format` the wording)
    stopping       the signals that ask for an end, and a bound on how long that end may take
    exits          exit codes, and `StartError`
    command_line   the parser of a process's options
    host_clock     the host's own time, which no step of the wall clock moves
    figures        a process's own CPU, memory and descriptors
    version        the installed version
"""
