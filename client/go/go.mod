module github.com/logos-mapi/logos-mapi/client/go

go 1.24

require (
	github.com/pebbe/zmq4 v1.4.0
	github.com/tinylib/msgp v1.6.5
	go.uber.org/goleak v1.3.0
)

require github.com/philhofer/fwd v1.2.0 // indirect
