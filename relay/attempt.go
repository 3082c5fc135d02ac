package relay

import "time"

// MaxResponseKept is how much of a response's body an attempt keeps, in bytes.
const MaxResponseKept = 4 << 10

// Attempt is the record of one HTTP POST of a delivery, or of one chunk of it.
type Attempt struct {
	Number     int // from 1, over the whole delivery
	Chunk      int // from 1 where the delivery is chunked, else 0
	ChunkTotal int
	StartTime  time.Time
	Verdict    VerdictKind
	Reason     Reason
	StatusCode int // 0 where no response came
	Durations  Durations

	RemoteAddress            string
	TLSVersion               string // such as "TLS 1.3"; empty over plain HTTP
	ServerCertificateSubject string
	ServerCertificateSHA256  string // hex, of the DER
	ClientCertificateSHA256  string // hex, of the DER; empty where none was asked for
	KeyID                    string
	BodySHA256               string // hex, of the bytes that were signed and sent
	ResponseBody             []byte // at most MaxResponseKept
	ResponseSize             int64  // bytes read before the bound
}

// Durations are an attempt's phases; a phase that did not take place (a kept connection) is zero.
type Durations struct {
	DNS, Connect, TLS, FirstByte, Total time.Duration
}

// VerdictKind says what becomes of a delivery after an attempt or a decision.
type VerdictKind string

// The verdicts: Done and Dead end the delivery, Later retries it at a time, Park keeps it until its endpoint can have
// it, Withhold ends it unsent, Hold keeps it until a caller releases it.
const (
	VerdictDone     VerdictKind = "DONE"
	VerdictLater    VerdictKind = "LATER"
	VerdictPark     VerdictKind = "PARK"
	VerdictDead     VerdictKind = "DEAD"
	VerdictWithhold VerdictKind = "WITHHOLD"
	VerdictHold     VerdictKind = "HOLD"
)

// Verdict is what an attempt means for its delivery and its endpoint.
type Verdict struct {
	Kind   VerdictKind
	Reason Reason
	// After is the least time to wait, as the receiver asked with Retry-After; zero leaves it to the
	// schedule. Only Later uses it.
	After time.Duration
	// Suspend asks for the endpoint to be suspended: the receiver said that it is gone.
	Suspend bool
	// Healthy tells the breaker that the endpoint itself works, whatever it thought of this delivery.
	Healthy bool
}
