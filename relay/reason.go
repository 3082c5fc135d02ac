package relay

// Reason says why a delivery or an attempt is as it is: a closed enumeration, used alike in records, logs and
// metric labels.
type Reason string

// What a receiver's answer meant.
const (
	ReasonNone            Reason = ""
	ReasonAccepted        Reason = "ACCEPTED"          // 2xx
	ReasonRedirected      Reason = "REDIRECTED"        // 3xx: never followed
	ReasonRejected        Reason = "REJECTED"          // 400, 413, 422 and other 4xx
	ReasonUnauthorized    Reason = "UNAUTHORIZED"      // 401, 403
	ReasonNotFound        Reason = "NOT_FOUND"         // 404
	ReasonGone            Reason = "GONE"              // 410
	ReasonThrottled       Reason = "THROTTLED"         // 429
	ReasonRequestTimeout  Reason = "REQUEST_TIMEOUT"   // 408, 425
	ReasonServerError     Reason = "SERVER_ERROR"      // 5xx
	ReasonUnavailable     Reason = "UNAVAILABLE"       // 503
	ReasonStatusUnknown   Reason = "STATUS_UNKNOWN"    // outside 200 to 599
	ReasonResponseInvalid Reason = "RESPONSE_INVALID"  // not HTTP, or headers out of bounds
	ReasonResponseTimeout Reason = "RESPONSE_TIMEOUT"  // no complete header in time
	ReasonDNSNotFound     Reason = "DNS_NOT_FOUND"     // the name does not exist
	ReasonDNSFailure      Reason = "DNS_FAILURE"       // the name could not be looked up
	ReasonForbidden       Reason = "ADDRESS_FORBIDDEN" // the egress guard refused an address
	ReasonConnectRefused  Reason = "CONNECT_REFUSED"   //
	ReasonConnectTimeout  Reason = "CONNECT_TIMEOUT"   //
	ReasonConnectFailed   Reason = "CONNECT_FAILED"    //
	ReasonTLSCertificate  Reason = "TLS_CERTIFICATE"   // the server's certificate is not to be trusted
	ReasonTLSExpired      Reason = "TLS_EXPIRED"       // the server's certificate is out of its time
	ReasonTLSHostname     Reason = "TLS_HOSTNAME"      // the server's certificate is for another name
	ReasonTLSPin          Reason = "TLS_PIN_MISMATCH"  // no pinned key in the server's chain
	ReasonTLSHandshake    Reason = "TLS_HANDSHAKE"     // any other failure of the handshake
	ReasonCertNotAsked    Reason = "CLIENT_CERTIFICATE_NOT_REQUESTED"
	ReasonCertRefused     Reason = "CLIENT_CERTIFICATE_REFUSED"
	ReasonCertUnconfirmed Reason = "CLIENT_CERTIFICATE_UNCONFIRMED"
	ReasonConnectionReset Reason = "CONNECTION_RESET"
	ReasonConnectionEnded Reason = "CONNECTION_CLOSED"
	ReasonTimeout         Reason = "TIMEOUT" // the attempt's whole time ran out
	ReasonInterrupted     Reason = "INTERRUPTED"
	ReasonTransport       Reason = "TRANSPORT_FAILED"
)

// What the relay itself decided.
const (
	ReasonSlow              Reason = "SLOW"               // in flight for longer than a second
	ReasonEndpointPaused    Reason = "ENDPOINT_PAUSED"    //
	ReasonEndpointSuspended Reason = "ENDPOINT_SUSPENDED" //
	ReasonEndpointContained Reason = "ENDPOINT_CONTAINED" // by an incident
	ReasonEndpointInactive  Reason = "ENDPOINT_INACTIVE"  // pending
	ReasonEndpointDeleted   Reason = "ENDPOINT_DELETED"   //
	ReasonBreakerOpen       Reason = "BREAKER_OPEN"       //
	ReasonLaneFull          Reason = "LANE_FULL"          // waited too long for its turn
	ReasonBehindParked      Reason = "BEHIND_PARKED"      // order: older ones wait
	ReasonDeadline          Reason = "DEADLINE_EXCEEDED"  // retried until its time ran out
	ReasonNoMatch           Reason = "NO_MATCH"           // no subscription wanted the event
	ReasonTypeForbidden     Reason = "TYPE_FORBIDDEN"     // the event type catalogue keeps it from leaving
	ReasonFilterFailed      Reason = "FILTER_FAILED"      //
	ReasonRedactionFailed   Reason = "REDACTION_FAILED"   //
	ReasonChunkUncovered    Reason = "CHUNK_UNCOVERED"    // too large, and its scheme cannot sign the framing
	ReasonChunkFailed       Reason = "CHUNK_FAILED"       //
	ReasonSigningFailed     Reason = "SIGNING_FAILED"     //
	ReasonCredentialFailed  Reason = "CREDENTIAL_FAILED"  // our certificate or key could not be had
	ReasonPanicked          Reason = "PANICKED"           // a step failed on this event in a way nobody foresaw
	ReasonRetried           Reason = "RETRY_REQUESTED"    // a caller asked for it
	ReasonReplayed          Reason = "REPLAYED"           // a replay sends it again
	ReasonCancelled         Reason = "CANCEL_REQUESTED"   // a caller asked for it
	ReasonChunkAccepted     Reason = "CHUNK_ACCEPTED"     // one of several
	ReasonNoLongerMatched   Reason = "NO_LONGER_MATCHED"  // the policy in force no longer sends it
	ReasonEndpointChanged   Reason = "ENDPOINT_CHANGED"   // routed again under what is in force now
	ReasonEventGone         Reason = "EVENT_GONE"         // the journal no longer has its event
	ReasonErased            Reason = "ERASED"             // its event's subject was erased
	ReasonShutdown          Reason = "SHUTDOWN"           // left for the next start
)
