package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

func newDelivery(conn *connection) *cobra.Command {
	cmd := group("delivery", "See what became of events, and steer it", "  sealpost delivery list --state dead")
	cmd.AddCommand(
		newDeliveryList(conn), newDeliveryShow(conn), newDeliveryTail(conn),
		newDeliveryRetry(conn), newDeliveryReplay(conn),
		deliveryAct(conn, "cancel", "End a delivery that is not settled",
			func(c sealpostv1.DeliveryServiceClient, cmd *cobra.Command, id, tenant string) (*sealpostv1.Delivery, error) {
				return c.CancelDelivery(cmd.Context(), &sealpostv1.CancelDeliveryRequest{Id: id, Tenant: tenant})
			}),
	)
	return cmd
}

func deliveryAct(conn *connection, name, short string,
	do func(c sealpostv1.DeliveryServiceClient, cmd *cobra.Command, id, tenant string) (*sealpostv1.Delivery, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: name + " ID", Short: short, Args: cobra.ExactArgs(1),
		Example: fmt.Sprintf("  sealpost delivery %s dlv_0123456789abcdef --tenant acme", name),
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of the delivery")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			d, err := do(sealpostv1.NewDeliveryServiceClient(c.Conn()), cmd, args[0], *tenant)
			if err != nil {
				return err
			}
			return show(cmd, d, func(w io.Writer) { deliveryRows(w, d) })
		})
	}
	return cmd
}

// deliveryQuery is what a list or a tail asks for.
type deliveryQuery struct{ tenant, endpoint, event, eventType, state string }

func (q *deliveryQuery) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&q.tenant, "tenant", "", "only of this tenant")
	f.StringVar(&q.endpoint, "endpoint", "", "only to this endpoint")
	f.StringVar(&q.event, "event", "", "only of this event")
	f.StringVar(&q.eventType, "type", "", "only of this event type, or of those that begin so: contact.*")
	f.StringVar(&q.state, "state", "", "only in this state")
}

func (q *deliveryQuery) stateOf() (sealpostv1.Delivery_State, error) {
	if q.state == "" {
		return 0, nil
	}
	n, err := enum(sealpostv1.Delivery_State_value, "state", q.state)
	return sealpostv1.Delivery_State(n), err
}

func newDeliveryList(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List deliveries, the newest first", Args: cobra.NoArgs,
		Example: "  sealpost delivery list --tenant acme --state dead --since 24h",
	}
	var q deliveryQuery
	q.flags(cmd)
	since := cmd.Flags().Duration("since", 0, "only of events accepted so long ago or later")
	limit := cmd.Flags().Int("limit", 50, "how many, at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		state, err := q.stateOf()
		if err != nil {
			return err
		}
		request := &sealpostv1.ListDeliveriesRequest{
			Tenant: q.tenant, EndpointId: q.endpoint, EventId: q.event, EventType: q.eventType, State: state,
		}
		if *since > 0 {
			request.After = timestamppb.New(time.Now().Add(-*since))
		}
		return withClient(conn, func(c *client.Client) error {
			list := &sealpostv1.ListDeliveriesResponse{}
			err := pages(*limit, func(size int32, token string) (int, string, error) {
				request.PageSize, request.PageToken = size, token
				page, err := sealpostv1.NewDeliveryServiceClient(c.Conn()).ListDeliveries(cmd.Context(), request)
				list.Deliveries = append(list.Deliveries, page.GetDeliveries()...)
				list.NextPageToken = page.GetNextPageToken()
				return len(page.GetDeliveries()), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return show(cmd, list, func(w io.Writer) {
				row(w, "ID", "ACCEPTED", "TYPE", "EVENT", "ENDPOINT", "STATE", "REASON", "ATTEMPTS", "NEXT")
				for _, d := range list.GetDeliveries() {
					row(w, d.GetId(), when(d.GetAcceptTime()), d.GetEventType(), d.GetEventId(), d.GetEndpointId(), d.GetState(),
						dash(d.GetReason()), d.GetAttemptCount(), when(d.GetNextAttemptTime()))
				}
			})
		})
	}
	return cmd
}

func newDeliveryShow(conn *connection) *cobra.Command {
	return deliveryAct(conn, "show", "Show a delivery with its attempts",
		func(c sealpostv1.DeliveryServiceClient, cmd *cobra.Command, id, tenant string) (*sealpostv1.Delivery, error) {
			return c.GetDelivery(cmd.Context(), &sealpostv1.GetDeliveryRequest{Id: id, Tenant: tenant})
		})
}

func newDeliveryTail(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "tail", Short: "Show every change of deliveries from now on, one a line", Args: cobra.NoArgs,
		Example: "  sealpost delivery tail --tenant acme --output json",
	}
	var q deliveryQuery
	q.flags(cmd)
	count := cmd.Flags().Int("count", 0, "end after so many changes (default never)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := wantsJSON(cmd)
		if err != nil {
			return err
		}
		state, err := q.stateOf()
		if err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			stream, err := sealpostv1.NewDeliveryServiceClient(c.Conn()).WatchDeliveries(cmd.Context(),
				&sealpostv1.WatchDeliveriesRequest{
					Tenant: q.tenant, EndpointId: q.endpoint, EventId: q.event, EventType: q.eventType, State: state,
				})
			if err != nil {
				return err
			}
			for n := 0; *count == 0 || n < *count; n++ {
				change, err := stream.Recv()
				if errors.Is(err, io.EOF) || cmd.Context().Err() != nil {
					return nil
				}
				if err != nil {
					return err
				}
				if err := showChange(cmd.OutOrStdout(), change.GetDelivery(), asJSON); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmd
}

func showChange(w io.Writer, d *sealpostv1.Delivery, asJSON bool) error {
	if asJSON {
		text, err := jsonOf(d, nil)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s\n", text)
		return err
	}
	_, err := fmt.Fprintln(w, when(d.GetUpdateTime()), d.GetState(), plain(d.GetId()), plain(d.GetEventType()), plain(d.GetEventId()),
		plain(d.GetEndpointId()), plain(dash(d.GetReason())))
	return err
}

func deliveryRows(w io.Writer, d *sealpostv1.Delivery) {
	row(w, "id", d.GetId())
	row(w, "tenant", d.GetTenant())
	row(w, "event", d.GetEventId(), d.GetEventType())
	row(w, "endpoint", d.GetEndpointId())
	row(w, "state", d.GetState(), d.GetReason())
	row(w, "attempts", d.GetAttemptCount())
	row(w, "next attempt", when(d.GetNextAttemptTime()))
	row(w, "accepted", when(d.GetAcceptTime()))
	row(w, "given up", when(d.GetExpireTime()))
	row(w, "fields redacted", d.GetRedactedCount())
	if d.GetChunkCount() > 0 {
		row(w, "chunks", fmt.Sprintf("%d of %d", d.GetChunksDelivered(), d.GetChunkCount()))
	}
	for _, a := range d.GetAttempts() {
		fmt.Fprintln(w)
		attemptRows(w, a)
	}
}

func attemptRows(w io.Writer, a *sealpostv1.Attempt) {
	row(w, "attempt", a.GetNumber(), when(a.GetStartTime()))
	if a.GetChunkCount() > 0 {
		row(w, "  chunk", fmt.Sprintf("%d of %d", a.GetChunk(), a.GetChunkCount()))
	}
	row(w, "  verdict", a.GetVerdict(), a.GetReason())
	row(w, "  status", a.GetStatusCode())
	row(w, "  took", a.GetDurations().GetTotal().AsDuration().Round(time.Microsecond))
	row(w, "  server", dash(a.GetRemoteAddress()), a.GetTlsVersion(), a.GetServerCertificateSubject())
	row(w, "  key", dash(a.GetKeyId()))
	row(w, "  body sha-256", dash(a.GetBodySha256()))
	if r := a.GetResponseBody(); r != "" {
		text, _ := json.Marshal(r)
		row(w, "  response", string(text))
	}
}
