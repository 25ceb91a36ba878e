package logos

import (
	"path/filepath"
	"regexp"
	"strings"
)

const maxSocketPath = 107 // bytes that a sockaddr_un has for a path, without its NUL (§1)

var (
	schemeOf   = regexp.MustCompile(`^([a-z][a-z0-9+.-]*)://`)
	nameOf     = regexp.MustCompile(`^[a-z0-9._-]{1,64}$`)
	strangerOf = regexp.MustCompile(`/((?:kernel|mapi)/(?:events|requests|control|apps))$`)
)

// The endpoint itself, or that of a socket ("mapi/apps", "kernel/requests") in a node's run directory.
func endpointOf(where, socket string) (string, error) {
	scheme := schemeOf.FindStringSubmatch(where)
	switch {
	case where == "":
		return "", newError(CodeBadRequest, "the endpoint is empty")
	case scheme == nil:
		directory, err := filepath.Abs(where)
		if err != nil {
			return "", err
		}
		where = "ipc://" + filepath.Join(directory, filepath.FromSlash(socket))
	case scheme[1] != "ipc" && scheme[1] != "tcp":
		return "", newError(CodeBadRequest, "%s: an endpoint is ipc://…, tcp://… or a node's run directory", where)
	}
	if path, is := strings.CutPrefix(where, "ipc://"); is {
		if len(path) > maxSocketPath {
			return "", newError(CodeBadRequest, "socket path %s has more than %d bytes: connect by a shorter path", path, maxSocketPath)
		}
		if other := strangerOf.FindStringSubmatch(path); other != nil && other[1] != socket {
			return "", newError(CodeBadRequest, "%s is the socket %s of a node; connect to %s", where, other[1], socket)
		}
	}
	return where, nil
}

func checkName(name string) error {
	if name != "" && !nameOf.MatchString(name) {
		return newError(CodeBadRequest, "name: 1 to 64 of a-z, 0-9, \".\", \"_\" and \"-\", not %q", name)
	}
	return nil
}

// Whether a hello was answered by the server that was meant.
func checkServer(server, wanted string) error {
	kinds := map[string]string{"logos-kernel": "a kernel", "logos-mapi": "a Messaging API"}
	if name, _, _ := strings.Cut(server, "/"); name != wanted && kinds[name] != "" {
		return newError(CodeBadRequest, "this is %s (%s), not %s", kinds[name], server, kinds[wanted])
	}
	return nil
}

func checkProtocol(version int) error {
	if version != protocolVersion {
		return newError(CodeUnsupportedVersion, "version %d was chosen, %d was offered", version, protocolVersion)
	}
	return nil
}
