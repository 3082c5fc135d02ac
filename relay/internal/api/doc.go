// Package api is the gRPC and the REST face of the relay's one door, control. It promises that both faces mean the same: a
// REST call goes through the interceptors and the service of the gRPC call, in this process, without a socket
// between. It authenticates every call, checks the form of what came, translates errors to status codes in one place
// (errors.go), and decides nothing: who may do what is control's.
//
// It trusts nobody. Bodies, batches, streams and times are bounded; JSON that is ambiguous (a name twice, invalid UTF-8,
// an unknown field, more than one value) is refused with the field, the rule and the place; no answer repeats the
// content of an event or a secret but to the caller who may have it.
package api
