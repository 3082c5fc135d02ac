package rig

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// NATS is a cluster of three real nats-servers. Every connection, of clients and between the nodes, goes over a proxy of its own, so that
// a node can be cut off. What they store is in the test's folder.
type NATS struct {
	tb    testing.TB
	Nodes []*Node
}

// Node is one nats-server.
type Node struct {
	Name    string
	tb      testing.TB
	binary  string
	config  string
	monitor string
	Clients *Proxy   // through which clients reach it
	routes  []*Proxy // from it and to it
	cmd     *exec.Cmd
	ended   chan struct{}
	output  *output
}

// BuildNATS builds the nats-server of the version that go.mod names into dir and returns its path.
func BuildNATS(dir string) (string, error) {
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("rig: where the source is, is not known")
	}
	path := filepath.Join(dir, "nats-server")
	cmd := exec.Command("go", "build", "-o", path, "github.com/nats-io/nats-server/v2")
	cmd.Dir = filepath.Join(filepath.Dir(here), "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("rig: go build nats-server: %w\n%s", err, out)
	}
	return path, nil
}

// StartNATS starts the three nodes and returns when they have a leader.
func StartNATS(tb testing.TB, binary string) *NATS {
	tb.Helper()
	const nodes = 3
	n := &NATS{tb: tb}
	ports := freePorts(tb, 3*nodes)
	client, cluster, monitor := ports[:nodes], ports[nodes:2*nodes], ports[2*nodes:]
	dir := tb.TempDir()
	for i := range nodes {
		n.Nodes = append(n.Nodes, &Node{
			Name: fmt.Sprintf("n%d", i), tb: tb, binary: binary, monitor: monitor[i], Clients: NewProxy(tb, client[i]),
			output: &output{wake: make(chan struct{})},
		})
	}
	for i, from := range n.Nodes {
		var routes []string
		for j, to := range n.Nodes {
			if i == j {
				continue
			}
			p := NewProxy(tb, cluster[j])
			from.routes, to.routes = append(from.routes, p), append(to.routes, p)
			routes = append(routes, fmt.Sprintf("%q", "nats://"+p.Address))
		}
		from.config = filepath.Join(dir, from.Name+".conf")
		// Nobody is told of addresses that lead past the proxies. A route that is dead is given up after fifteen seconds, and not after 90: until
		// then the others send their own part of everything into it, and once its buffers are full, wait for it.
		text := fmt.Sprintf(`server_name: %s
listen: %q
http: %q
max_payload: 12MB
jetstream { store_dir: %q, max_file_store: 64GB }
cluster { name: rig, listen: %q, no_advertise: true, ping_interval: "5s", ping_max: 2, routes: [%s] }
`, from.Name, client[i], monitor[i], filepath.Join(dir, from.Name), cluster[i], strings.Join(routes, ", "))
		if err := os.WriteFile(from.config, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	for _, one := range n.Nodes {
		one.Start()
		tb.Cleanup(one.Kill)
	}
	n.AwaitLeader()
	return n
}

// URL is what clients connect to: all nodes.
func (n *NATS) URL() string {
	var urls []string
	for _, one := range n.Nodes {
		urls = append(urls, "nats://"+one.Clients.Address)
	}
	return strings.Join(urls, ",")
}

// AwaitLeader waits until all running nodes know each other, and the cluster has a leader.
func (n *NATS) AwaitLeader() {
	n.tb.Helper()
	said := ""
	all := func() bool {
		for _, one := range n.Nodes {
			if one.cmd == nil {
				continue
			}
			var js struct {
				Meta struct {
					Leader  string `json:"leader"`
					Size    int    `json:"cluster_size"`
					Pending int    `json:"pending"`
				} `json:"meta_cluster"`
			}
			if err := one.get("/jsz", &js); err != nil || js.Meta.Leader == "" || js.Meta.Size < len(n.Nodes) {
				said = fmt.Sprint(one.Name, ": ", js, err)
				return false
			}
		}
		return true
	}
	// The third node is let in when the other two have agreed: on a busy machine after more than one patience.
	for late := time.Now().Add(Within); !all() && time.Now().Before(late); {
		time.Sleep(50 * time.Millisecond)
	}
	Eventually(n.tb, "the NATS cluster has a leader", all, func() string { return said })
}

// Leader is the node that leads a stream, by the end of its name; nil where there is none, or it is not known.
func (n *NATS) Leader(stream string) *Node {
	for _, one := range n.Nodes {
		if one.cmd == nil {
			continue
		}
		var js struct {
			Accounts []struct {
				Streams []struct {
					Name    string `json:"name"`
					Cluster struct {
						Leader string `json:"leader"`
					} `json:"cluster"`
				} `json:"stream_detail"`
			} `json:"account_details"`
		}
		if one.get("/jsz?accounts=1&streams=1", &js) != nil {
			continue
		}
		for _, a := range js.Accounts {
			for _, s := range a.Streams {
				if strings.HasSuffix(s.Name, stream) && s.Cluster.Leader != "" {
					return n.node(s.Cluster.Leader)
				}
			}
		}
	}
	return nil
}

func (n *NATS) node(name string) *Node {
	for _, one := range n.Nodes {
		if one.Name == name && one.cmd != nil {
			return one
		}
	}
	return nil
}

func (n *Node) get(path string, to any) error {
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get("http://" + n.monitor + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return err
	}
	return json.Unmarshal(text, to)
}

// Start starts the node, or starts it again.
func (n *Node) Start() {
	n.tb.Helper()
	cmd := exec.Command(n.binary, "-c", n.config)
	cmd.Stdout, cmd.Stderr = n.output, n.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		n.tb.Fatalf("nats-server: %v", err)
	}
	n.cmd, n.ended = cmd, make(chan struct{})
	watch.tell("begun", cmd.Process.Pid)
	go func(ended chan struct{}) {
		cmd.Wait()
		watch.tell("ended", cmd.Process.Pid)
		close(ended)
	}(n.ended)
}

// Health is ok where the node serves and its streams are current, and else says what is not.
func (n *Node) Health() string {
	var h struct{ Status, Error string }
	if err := n.get("/healthz", &h); err != nil {
		return err.Error()
	}
	if h.Status != "ok" {
		return h.Status + ": " + h.Error
	}
	return h.Status
}

// Kill ends the node as kill -9 does.
func (n *Node) Kill() { n.end(syscall.SIGKILL) }

// Stop ends the node with SIGTERM: it hands over what it leads first.
func (n *Node) Stop() { n.end(syscall.SIGTERM) }

func (n *Node) end(signal syscall.Signal) {
	if n.cmd == nil {
		return
	}
	syscall.Kill(-n.cmd.Process.Pid, signal)
	select {
	case <-n.ended:
	case <-time.After(StopWithin):
		syscall.Kill(-n.cmd.Process.Pid, syscall.SIGKILL)
		<-n.ended
	}
	n.cmd = nil
}

// Isolate cuts the node off from the other nodes; its clients stay.
func (n *Node) Isolate() {
	for _, p := range n.routes {
		p.Cut()
	}
}

// Heal ends Isolate.
func (n *Node) Heal() {
	for _, p := range n.routes {
		p.Heal()
	}
}

// Tail is the end of what the node said.
func (n *Node) Tail() string {
	all, _ := n.output.since(0)
	return all[max(0, len(all)-8<<10):]
}
