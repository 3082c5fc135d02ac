package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

const healthHelp = `Show how an endpoint does: its breaker, what is open to it, and what came of the attempts of the last five minutes, hour and day.

The relay that sends to the endpoint counts in its memory: the counts begin anew when it is started.`

func newEndpointHealth(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "health ID", Aliases: []string{"stats"}, Short: "Show how one does: breaker, open deliveries, attempts and their length",
		Long: healthHelp, Args: cobra.ExactArgs(1), Example: "  sealpost endpoint health ep_0123456789abcdef --tenant acme",
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of the endpoint")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			h, err := sealpostv1.NewEndpointServiceClient(c.Conn()).GetEndpointHealth(cmd.Context(),
				&sealpostv1.GetEndpointHealthRequest{Id: args[0], Tenant: *tenant})
			if err != nil {
				return err
			}
			return show(cmd, h, func(w io.Writer) { healthRows(w, h) })
		})
	}
	return cmd
}

func healthRows(w io.Writer, h *sealpostv1.EndpointHealth) {
	row(w, "endpoint", h.GetEndpointId())
	row(w, "tenant", h.GetTenant())
	row(w, "state", h.GetState())
	row(w, "breaker", h.GetBreaker())
	row(w, "in flight", h.GetInFlight())
	row(w, "open", countsByName(h.GetOpen()))
	row(w, "oldest open", when(h.GetOldestOpenTime()))
	row(w, "last delivery", when(h.GetLastDeliveryTime()))
	row(w, "last failure", when(h.GetLastFailureTime()), dash(h.GetLastFailureReason()))
	row(w, "counted since", when(h.GetSinceTime()))
	fmt.Fprintln(w)
	row(w, "LAST", "ATTEMPTS", "ACCEPTED", "DELIVERED", "DEAD", "P50", "P99", "FAILURES")
	for _, s := range h.GetSpans() {
		row(w, spanName(s.GetLength().AsDuration()), s.GetAttempts(), s.GetAccepted(), s.GetDelivered(), s.GetDead(),
			length(s.GetP50()), length(s.GetP99()), countsByName(s.GetFailures()))
	}
}

// countsByName are numbers by name, the largest first.
func countsByName(of map[string]int64) string {
	names := slices.SortedFunc(maps.Keys(of), func(a, b string) int {
		if of[a] != of[b] {
			return int(max(-1, min(1, of[b]-of[a])))
		}
		return strings.Compare(a, b)
	})
	var parts []string
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%s %d", name, of[name]))
	}
	return dash(strings.Join(parts, ", "))
}

func spanName(d time.Duration) string {
	switch {
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return d.String()
}

func length(d *durationpb.Duration) string {
	if d == nil {
		return "-"
	}
	return d.AsDuration().Round(100 * time.Microsecond).String()
}
