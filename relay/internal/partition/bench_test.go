package partition

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/courier"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/lane"
	"github.com/sealpost/sealpost/relay/internal/record"
)

// instant is a courier whose receivers take everything at once.
type instant struct {
	pack *courier.Courier
	sent atomic.Int64
}

func (c *instant) Pack(d *relay.Delivery) (*courier.Parcel, relay.Verdict) { return c.pack.Pack(d) }

func (c *instant) Send(_ context.Context, _ *courier.Parcel, i int) (relay.Attempt, relay.Verdict) {
	c.sent.Add(1)
	return relay.Attempt{
		Number: 1, StartTime: time.Now(), Verdict: relay.VerdictDone, Reason: relay.ReasonAccepted, StatusCode: 200,
		Durations: relay.Durations{FirstByte: time.Millisecond, Total: time.Millisecond}, RemoteAddress: "203.0.113.7:443", TLSVersion: "TLS 1.3",
		ServerCertificateSubject: "CN=hooks.partner.example", KeyID: "key_1",
		ServerCertificateSHA256: strings.Repeat("a", 64), ClientCertificateSHA256: strings.Repeat("b", 64), BodySHA256: strings.Repeat("c", 64),
	}, relay.Verdict{Kind: relay.VerdictDone, Reason: relay.ReasonAccepted, Healthy: true}
}

// From acceptance to recorded outcomes, in one process, for events of 1 KiB that each go to some endpoints.
func BenchmarkPartition(b *testing.B) {
	for _, endpoints := range []int{1, 4} {
		b.Run(fmt.Sprint(endpoints, " endpoints"), func(b *testing.B) {
			c := &instant{}
			w := newWorld(b, func(o *Options) {
				c.pack = o.Courier.(*partner).pack
				o.Courier, o.SyncEvery, o.CheckpointEvery, o.Limits = c, 0, 0, lane.DefaultLimits()
			})
			for i := range endpoints {
				w.endpoint(fmt.Sprint("ep_", i))
			}
			w.start()
			data := []byte(`{"name":"Anna Example","text":"` + strings.Repeat("x", 980) + `"}`)
			b.ReportAllocs()
			b.ResetTimer()
			var accepted sync.WaitGroup
			window := make(chan struct{}, 4096)
			for i := range b.N {
				ev := &relay.Event{Tenant: "acme", ID: fmt.Sprint("evt_", i), Type: "contact.updated", Time: time.Now(), Data: data}
				payload, err := record.EncodeEvent(nil, ev)
				if err != nil {
					b.Fatal(err)
				}
				accepted.Add(1)
				window <- struct{}{}
				w.journal.Events(0).AcceptAsync(journal.Entry{ID: ev.ID, Digest: sha256.Sum256(payload), Payload: payload}, func(_ journal.Receipt, err error) {
					if err != nil {
						b.Error(err)
					}
					<-window
					accepted.Done()
				})
			}
			accepted.Wait()
			want := int64(b.N * endpoints)
			for c.sent.Load() < want {
				time.Sleep(time.Millisecond)
			}
			for settled := false; !settled; {
				w.do(func(l *loop) {
					settled = l.state.Cursor() == uint64(b.N) && len(l.state.Endpoints()) == 0 && len(l.flying) == 0
				})
			}
			b.ReportMetric(float64(want)/b.Elapsed().Seconds(), "deliveries/s")
			b.StopTimer()
			w.finish()
			if c.sent.Load() != want {
				b.Errorf("%d POSTs of %d deliveries", c.sent.Load(), want)
			}
		})
	}
}
