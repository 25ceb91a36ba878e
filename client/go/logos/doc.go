// Package logos is the Go client of a Logos Delivery node: of its Messaging API ([MessagingClient]: subscribe, send, and
// one ordered stream of events that resumes after a restart of either side) and of its kernel ([KernelClient]: publish,
// query stores, watch peers, health and messages).
//
// Clients reconnect by themselves. All methods may be called from any goroutine, take a context, and give up after ten
// seconds when it has no deadline. What a server refuses, and what becomes of a connection, is an [*Error] with a [Code]:
//
//	if errors.Is(err, logos.CodeBusy) { … }
//
// The contract is ipc_schema/SPEC.md of the repository; comments that name a section mean that file.
package logos
