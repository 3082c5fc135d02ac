package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

const statusHelp = `Say whether the server can do its work, and how much it has done.

The server's health is asked over gRPC, and its parts and counts on its admin address, which the client file names, or --admin.
The exit status is 1 where it does not serve.`

func newStatus(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Say whether the server is well, and what it has done", Long: statusHelp, Args: cobra.NoArgs,
		Example: "  sealpost status --output json",
	}
	admin := cmd.Flags().String("admin", "", "admin address of the server (default the client file's)")
	within := cmd.Flags().Duration("within", 10*time.Second, "how long to wait for an answer")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := wantsJSON(cmd)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), *within)
		defer cancel()
		return withClient(conn, func(c *client.Client) error {
			s, err := askStatus(ctx, conn, c, cmp.Or(*admin, conn.admin))
			if err != nil {
				return err
			}
			if err := s.show(cmd.OutOrStdout(), asJSON); err != nil {
				return err
			}
			if s.Health != grpc_health_v1.HealthCheckResponse_SERVING.String() || s.Parts != nil && !s.Parts.Ready {
				return errors.New("the server does not serve")
			}
			return nil
		})
	}
	return cmd
}

// serverStatus is what is shown.
type serverStatus struct {
	Server string       `json:"server"`
	Health string       `json:"health"`
	Parts  *serverParts `json:"parts,omitempty"`
	// Endpoints by state: those that the token may see.
	Endpoints map[string]int `json:"endpoints"`
	// Events and Outcomes since the server started, by what became of them.
	Events   map[string]float64 `json:"events,omitempty"`
	Outcomes map[string]float64 `json:"outcomes,omitempty"`
	InFlight float64            `json:"inFlight"`
}

// serverParts is /readyz.
type serverParts struct {
	Ready   bool   `json:"ready"`
	Version string `json:"version"`
	Journal string `json:"journal"`
	Audit   string `json:"audit"`
	View    string `json:"view"`
	Quotas  string `json:"quotas"`
	// Partitions that nobody owns now, and who owns the others.
	Partitions string           `json:"partitions"`
	Owners     []partitionOwner `json:"owners,omitempty"`
}

// partitionOwner is who sends what is in a partition.
type partitionOwner struct {
	Partition int    `json:"partition"`
	Owner     string `json:"owner,omitempty"`
	Here      bool   `json:"here,omitempty"`
}

// maxStatusEndpoints bounds how many endpoints are counted.
const maxStatusEndpoints = 100_000

func askStatus(ctx context.Context, conn *connection, c *client.Client, admin string) (*serverStatus, error) {
	s := &serverStatus{Server: conn.server, Endpoints: map[string]int{}}
	health, err := grpc_health_v1.NewHealthClient(c.Conn()).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return nil, err
	}
	s.Health = health.GetStatus().String()
	err = pages(maxStatusEndpoints, func(size int32, token string) (int, string, error) {
		page, err := sealpostv1.NewEndpointServiceClient(c.Conn()).ListEndpoints(ctx,
			&sealpostv1.ListEndpointsRequest{PageSize: size, PageToken: token})
		for _, ep := range page.GetEndpoints() {
			s.Endpoints[ep.GetState().String()]++
		}
		return len(page.GetEndpoints()), page.GetNextPageToken(), err
	})
	if err != nil {
		return nil, err
	}
	if admin == "" {
		return s, nil
	}
	conf, err := conn.tls()
	if err != nil {
		return nil, err
	}
	return s, s.askAdmin(ctx, admin, conf)
}

func (s *serverStatus) askAdmin(ctx context.Context, admin string, conf *tls.Config) error {
	transport := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true} // and no proxy: this is our own machine
	base := "http://" + admin
	if conf != nil {
		base = "https://" + admin
	}
	get := func(path string, read func(io.Reader) error) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
		if err != nil {
			return err
		}
		answer, err := transport.RoundTrip(r)
		if err != nil {
			return fmt.Errorf("admin address: %w", err)
		}
		defer answer.Body.Close()
		return read(io.LimitReader(answer.Body, 16<<20))
	}
	s.Parts = &serverParts{}
	if err := get("/readyz", func(r io.Reader) error { return json.NewDecoder(r).Decode(s.Parts) }); err != nil {
		return err
	}
	return get("/metrics", s.readMetrics)
}

// readMetrics takes the few counts that are shown from Prometheus's text format.
func (s *serverStatus) readMetrics(r io.Reader) error {
	s.Events, s.Outcomes = map[string]float64{}, map[string]float64{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		series, text, ok := strings.Cut(lines.Text(), "} ")
		name, labels, labelled := strings.Cut(series, "{")
		if !ok || !labelled {
			continue
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("metrics: %s has no number", name)
		}
		switch name {
		case "sealpost_api_events_total":
			s.Events[label(labels, "code")] += value
		case "sealpost_delivery_outcomes_total":
			s.Outcomes[label(labels, "state")] += value
		case "sealpost_deliveries_in_flight":
			s.InFlight += value
		}
	}
	return lines.Err()
}

// label is the value of one label; those asked for hold no quotes.
func label(labels, name string) string {
	_, after, _ := strings.Cut(labels, name+`="`)
	value, _, _ := strings.Cut(after, `"`)
	return value
}

func (s *serverStatus) show(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(s)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row(w, "server", s.Server)
	row(w, "health", s.Health)
	if p := s.Parts; p != nil {
		row(w, "version", p.Version)
		row(w, "journal", p.Journal)
		row(w, "audit", p.Audit)
		row(w, "view", p.View)
		row(w, "quotas", p.Quotas)
		row(w, "partitions", p.Partitions)
		if len(p.Owners) > 1 {
			for _, o := range p.Owners {
				row(w, fmt.Sprintf("partition %d", o.Partition), cmp.Or(o.Owner, "no owner"))
			}
		}
	}
	counts(w, "endpoints", s.Endpoints)
	if s.Parts != nil {
		counts(w, "events since start", s.Events)
		counts(w, "outcomes since start", s.Outcomes)
		row(w, "in flight", s.InFlight)
	}
	return w.Flush()
}

// counts is one line of counts that are not zero.
func counts[N int | float64](w io.Writer, name string, of map[string]N) {
	var parts []string
	for key, n := range of {
		if n != 0 {
			parts = append(parts, fmt.Sprintf("%v %s", n, strings.ToLower(key)))
		}
	}
	slices.Sort(parts)
	row(w, name, dash(strings.Join(parts, ", ")))
}
