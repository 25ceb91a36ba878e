"""What all processes of a node have in common: directories and locks, file modes of sockets, parent watch,
logging, signals, exit codes, figures from /proc, command line.

Depends only on the standard library and `ipc_schema`, without an event loop: kernel, Messaging API, gateway
and launcher build on it.

    main           from the command line to the exit code
    claim          directories, locks and socket paths, claimed before anything else
    directories    private directories
    lock           ownership of a directory
    endpoints      which endpoints may be bound, and under which umask
    parent_watch   end a process together with its parent
    logs           logging that never blocks on its reader (`output` is the queue, `log_format` the wording)
    stopping       stop signals, and a limit on the duration of the shutdown
    exits          exit codes, and `StartError`
    command_line   the parser of a process's options
    files          small files: replaced whole, read within limits
    host_clock     the host's own time, which no step of the wall clock moves
    figures        a process's own CPU, memory and descriptors
    version        the installed version
"""
