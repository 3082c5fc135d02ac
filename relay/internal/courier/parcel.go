package courier

import (
	"strings"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/chunk"
)

// maxChunkHeader is the longest sealpost-chunk value that a signer takes.
const maxChunkHeader = 512

// Parcel is a delivery made ready: the body that its endpoint receives, split where it is too large for one push. It
// is immutable, and refers to the delivery's bytes.
type Parcel struct {
	delivery    *relay.Delivery
	body        []byte
	contentType string
	set         *chunk.Set // nil where the delivery is whole
	next        int        // from 0
	attempts    int        // made before
}

// Pack makes a delivery ready to be sent. It is pure: the same delivery makes the same parcel.
//
// A nil Parcel comes with the verdict: Park with CREDENTIAL_FAILED where the endpoint has no signer, Withhold with
// CHUNK_UNCOVERED where the delivery is too large and no signature would cover its framing, Withhold with
// CHUNK_FAILED where it cannot be split.
//
// A delivery of which chunks were accepted goes on after them, as long as the whole is byte for byte what it was then;
// otherwise, as after a change of policy, a new set begins.
func (c *Courier) Pack(d *relay.Delivery) (*Parcel, relay.Verdict) {
	ep := d.Endpoint
	if ep.Signer == nil {
		return nil, park(relay.ReasonCredentialFailed)
	}
	p := &Parcel{delivery: d, attempts: d.Attempts}
	p.body, p.contentType = render(d)
	if len(p.body) <= chunkBytes(ep) {
		return p, relay.Verdict{}
	}
	set, err := chunk.Split(p.body, chunk.Options{
		Set:      d.ID,
		MaxBytes: chunkBytes(ep),
		Array:    arrayIn(ep),
		Envelope: ep.ContentMode == relay.ContentEnvelope,
	})
	if err != nil || len(set.Header(set.Total()).String()) > maxChunkHeader {
		return nil, withhold(relay.ReasonChunkFailed)
	}
	if !covered(ep, set) {
		return nil, withhold(relay.ReasonChunkUncovered)
	}
	p.set = set
	if d.Progress.Digest == set.Digest() && d.Progress.Total == set.Total() && d.Progress.Next < set.Total() {
		p.next = max(d.Progress.Next, 0)
	}
	return p, relay.Verdict{}
}

// covered tells whether what makes the chunks a set is under the signature: the id of each chunk says it, or the body.
func covered(ep *relay.Endpoint, set *chunk.Set) bool {
	return ep.Signer.Scheme().Facts().CoversID || ep.ContentMode == relay.ContentEnvelope && set.Paged()
}

// arrayIn is where the endpoint's array, named relative to data, stands in the body.
func arrayIn(ep *relay.Endpoint) string {
	named := ep.ChunkArray
	if named == "" || ep.ContentMode == relay.ContentData || ep.ContentMode == relay.ContentCloudEventsBinary {
		return named
	}
	if strings.HasPrefix(named, "/") {
		return "/data" + named
	}
	return "data." + named
}

func chunkBytes(ep *relay.Endpoint) int {
	if ep.ChunkBytes <= 0 {
		return relay.DefaultChunkBytes
	}
	return min(max(ep.ChunkBytes, relay.MinChunkBytes), relay.MaxChunkBytes)
}

// Chunks is the number of POSTs that the whole delivery takes: 1 where it is not chunked.
func (p *Parcel) Chunks() int {
	if p.set == nil {
		return 1
	}
	return p.set.Total()
}

// Next is the first chunk to send, from 0.
func (p *Parcel) Next() int { return p.next }

// Size is the length of the whole body in bytes.
func (p *Parcel) Size() int { return len(p.body) }

// After is how far the delivery has come when chunk i got that verdict; it is what the delivery's Progress becomes.
func (p *Parcel) After(i int, v relay.Verdict) relay.Progress {
	if p.set == nil {
		return relay.Progress{}
	}
	made := relay.Progress{Digest: p.set.Digest(), Total: p.set.Total(), Next: i}
	switch {
	case v.Kind == relay.VerdictDone:
		made.Next = i + 1
	case v.Reason == relay.ReasonChunkFailed:
		made.Next = 0 // the receiver has lost the chunks before this one
	}
	return made
}
