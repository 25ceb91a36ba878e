package logos

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Code says what kind of [*Error] it is; errors.Is(err, CodeBusy) tells whether err has it.
type Code string

// Error makes a code usable with errors.Is.
func (c Code) Error() string { return string(c) }

// Retriable tells whether the same request may succeed later, unless the error itself says otherwise.
func (c Code) Retriable() bool { return retriableCodes[c] }

// Error is what a server answered, or what became of a connection.
type Error struct {
	Code      Code
	Message   string // human-readable
	Retriable bool
	// RetryAfter says when, where the server does.
	RetryAfter time.Duration
	// Detail is what else the server said; its values are those of MessagePack.
	Detail map[string]any

	cause error
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Message) }

// Is tells whether target is this error's code.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// Unwrap is context.DeadlineExceeded where a deadline of the caller passed.
func (e *Error) Unwrap() error { return e.cause }

// ErrClosed is returned by a client that was closed.
var ErrClosed error = &Error{Code: CodeNotReady, Message: "the client is closed"}

func newError(code Code, format string, arguments ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, arguments...), Retriable: code.Retriable()}
}

func badFrame(format string, arguments ...any) error {
	return newError(CodeBadRequest, format, arguments...)
}

func lost(reason string) error { return newError(CodePeerRestarted, "%s", reason) }

// What a context that has ended means for a request: the caller's own cancellation, or a deadline.
func ended(ctx context.Context, what string) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	late := newError(CodeDeadlineExceeded, "%s in time", what)
	late.cause = context.DeadlineExceeded
	return late
}

// The error of a reply's body (§2, "Error").
func errorOf(frame []byte) (*Error, error) {
	var body struct {
		Code         string         `json:"code"`
		Message      string         `json:"message"`
		Retriable    *bool          `json:"retriable,omitempty"`
		RetryAfterMs uint64         `json:"retry_after_ms,omitempty"`
		Detail       map[string]any `json:"detail,omitempty"`
	}
	if err := decodeBody(frame, &body); err != nil {
		return nil, err
	}
	code := Code(body.Code)
	if _, known := retriableCodes[code]; !known {
		code, body.Message = CodeInternal, body.Code+": "+body.Message
	}
	found := newError(code, "%s", body.Message)
	if body.Retriable != nil {
		found.Retriable = *body.Retriable
	}
	found.RetryAfter = time.Duration(body.RetryAfterMs) * time.Millisecond
	found.Detail = body.Detail
	return found, nil
}
