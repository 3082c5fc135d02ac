package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

const replayHelp = `Send the deliveries that a filter names again, as an operation that survives a restart of the server.

Without --state or --missing it is those that are DEAD. Each is sent under the policy in force now, at most --rate a second, and
no more at a time than leave the endpoint's live traffic its pace: an endpoint that is paused, or fails, holds its own up until it works
again. With --missing it is the events that an endpoint never had, as those from before it was registered.

Times are RFC 3339, or how long ago: 24h.`

const retryHelp = `Send a delivery again, now, whatever state it is in.

With --state instead of an id it is every delivery in that state that the other flags name, as 'delivery replay' does it: the dead list,
once the partner works again. Without --endpoint, --after or --before it needs --all.`

func newDeliveryRetry(conn *connection) *cobra.Command {
	cmd := deliveryAct(conn, "retry", "Send a delivery again, now, or all that are dead",
		func(c sealpostv1.DeliveryServiceClient, cmd *cobra.Command, id, tenant string) (*sealpostv1.Delivery, error) {
			return c.RetryDelivery(cmd.Context(), &sealpostv1.RetryDeliveryRequest{Id: id, Tenant: tenant})
		})
	cmd.Use, cmd.Long, cmd.Args = "retry ID | --state dead", retryHelp, cobra.MaximumNArgs(1)
	cmd.Example += "\n  sealpost delivery retry --state dead --tenant acme --endpoint ep_0123456789 --wait"
	var ask replayFlags
	ask.flags(cmd)
	all := cmd.Flags().Bool("all", false, "with --state: of every endpoint, and of all time")
	one := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 1 && len(ask.states) == 0:
			return one(cmd, args)
		case len(args) == 1 || len(ask.states) == 0:
			return usagef("%s needs the id of a delivery or --state, not both", cmd.CommandPath())
		case ask.endpoint == "" && ask.after == "" && ask.before == "" && !*all:
			return usagef("%s would send all that is %s to every endpoint again: name --endpoint, --after or --before, or give --all",
				cmd.CommandPath(), strings.Join(ask.states, " or "))
		}
		ask.tenant = cmd.Flag("tenant").Value.String()
		return ask.run(cmd, conn)
	}
	return cmd
}

func newDeliveryReplay(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "replay", Short: "Send the deliveries that a filter names again, slowly", Long: replayHelp, Args: cobra.NoArgs,
		Example: "  sealpost delivery replay --tenant acme --endpoint ep_0123456789 --after 24h --reason 'partner was down' --wait\n" +
			"  sealpost delivery replay --tenant acme --endpoint ep_0123456789 --missing --rate 200",
	}
	var ask replayFlags
	cmd.Flags().StringVar(&ask.tenant, "tenant", "", "tenant of the deliveries")
	ask.flags(cmd)
	cmd.Flags().BoolVar(&ask.missing, "missing", false, "events that the endpoint never had")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return ask.run(cmd, conn) }
	return cmd
}

// replayFlags are what a replay is asked with.
type replayFlags struct {
	tenant, endpoint, after, before, reason, requestID string
	types, states                                      []string
	missing, wait                                      bool
	rate                                               float64
}

func (r *replayFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.endpoint, "endpoint", "", "only to this endpoint")
	f.StringSliceVar(&r.types, "type", nil, "only of these event types, or of those that begin so: contact.*")
	f.StringVar(&r.after, "after", "", "only of events accepted then or later")
	f.StringVar(&r.before, "before", "", "only of events accepted before")
	f.StringSliceVar(&r.states, "state", nil, "only those that ended so: dead, withheld, cancelled, delivered")
	f.Float64Var(&r.rate, "rate", 0, "deliveries a second, at most (default 50)")
	f.StringVar(&r.reason, "reason", "", "why, for the record")
	f.StringVar(&r.requestID, "request-id", "", "a repeat with the same id begins nothing new")
	f.BoolVar(&r.wait, "wait", false, "wait until it has ended, and fail unless it succeeded")
}

func (r *replayFlags) request(now time.Time) (*sealpostv1.ReplayDeliveriesRequest, error) {
	out := &sealpostv1.Replay{Tenant: r.tenant, EndpointId: r.endpoint, EventTypes: r.types, Missing: r.missing, DeliveriesPerSecond: r.rate}
	for _, s := range r.states {
		n, err := enum(sealpostv1.Delivery_State_value, "state", s)
		if err != nil {
			return nil, err
		}
		out.States = append(out.States, sealpostv1.Delivery_State(n))
	}
	for flag, to := range map[string]**timestamppb.Timestamp{"after": &out.After, "before": &out.Before} {
		text := map[string]string{"after": r.after, "before": r.before}[flag]
		if text == "" {
			continue
		}
		at, err := moment(text, now)
		if err != nil {
			return nil, usagef("--%s: %q is neither a time such as 2026-01-02T15:04:05Z nor how long ago, such as 24h", flag, text)
		}
		*to = timestamppb.New(at)
	}
	return &sealpostv1.ReplayDeliveriesRequest{Replay: out, Reason: r.reason, RequestId: r.requestID}, nil
}

// moment reads a time, or how long ago it was.
func moment(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Parse(time.RFC3339Nano, text)
}

func (r *replayFlags) run(cmd *cobra.Command, conn *connection) error {
	if _, err := wantsJSON(cmd); err != nil {
		return err
	}
	if r.tenant == "" {
		return usagef("%s needs --tenant", cmd.CommandPath())
	}
	request, err := r.request(time.Now())
	if err != nil {
		return err
	}
	return withClient(conn, func(c *client.Client) error {
		op, err := sealpostv1.NewDeliveryServiceClient(c.Conn()).ReplayDeliveries(cmd.Context(), request)
		if err != nil {
			return err
		}
		if r.wait {
			return awaitOperation(cmd, c, op)
		}
		return showOperation(cmd, op)
	})
}

// awaitOperation shows an operation's progress until it has ended, then the operation itself. It is an error where it did not succeed.
func awaitOperation(cmd *cobra.Command, c *client.Client, op *sealpostv1.Operation) error {
	line := newProgressLine(cmd.ErrOrStderr())
	for op.GetEndTime() == nil {
		line.say(progressOf(op))
		if err := rest(cmd.Context(), operationEvery); err != nil {
			line.end()
			return err
		}
		next, err := sealpostv1.NewOperationServiceClient(c.Conn()).GetOperation(cmd.Context(),
			&sealpostv1.GetOperationRequest{Id: op.GetId(), Tenant: op.GetTenant()})
		if err != nil {
			line.end()
			return err
		}
		op = next
	}
	line.end()
	if err := showOperation(cmd, op); err != nil {
		return err
	}
	if op.GetState() != sealpostv1.Operation_SUCCEEDED {
		return fmt.Errorf("the operation %s", strings.ToLower(op.GetState().String()))
	}
	return nil
}

// operationEvery is how often an operation is looked at while somebody waits for it.
const operationEvery = 250 * time.Millisecond

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// progressOf is an operation's progress in a line.
func progressOf(op *sealpostv1.Operation) string {
	p := op.GetProgress()
	text := fmt.Sprintf("%s %3.0f %%  %d done, %d left alone", op.GetState(), 100*p.GetFraction(), p.GetDone(), p.GetSkipped())
	if why := op.GetError(); why != "" {
		text += "  (" + plain(why) + ")"
	}
	return text
}
