package partition

import (
	"strconv"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/alert"
)

// alertDead tells operators of a delivery that is given up.
func (l *loop) alertDead(o *relay.Outcome) {
	if o.State == relay.Dead {
		l.o.Alerts.Raise(alert.Notice{
			Kind: alert.DeliveryDead, Tenant: o.Tenant, EndpointID: o.EndpointID, Reason: string(o.Reason), Fact: o.DeliveryID, Time: o.Time,
		})
	}
}

// alertBreaker tells operators that an endpoint's breaker opened or closed.
func (l *loop) alertBreaker(kind alert.Kind, t *task, reason relay.Reason) {
	now := l.o.Clock()
	l.o.Alerts.Raise(alert.Notice{
		Kind: kind, Tenant: t.endpoint.Tenant, EndpointID: t.key.Endpoint, Reason: string(reason), Fact: strconv.FormatInt(now.UnixNano(), 36), Time: now,
	})
}
