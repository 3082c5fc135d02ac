// Package readme_test runs the README's snippets as a reader would, against the real binary.
package readme_test

import (
	"bufio"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/test/rig"
)

var binary string

func TestMain(m *testing.M) { os.Exit(rig.Main(m, &binary)) }

const readme = "../../README.md"

var marked = regexp.MustCompile("(?s)<!-- snippet: ([a-z.]+) -->\n```[a-z]+\n(.*?)\n```\n")

// snippets writes the README's snippets into a folder and returns their paths by name.
func snippets(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	paths := map[string]string{}
	for _, m := range marked.FindAllStringSubmatch(string(text), -1) {
		path := filepath.Join(dir, strings.TrimSuffix(m[1], filepath.Ext(m[1])), m[1])
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(m[2]+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		paths[m[1]] = path
	}
	return paths
}

// command runs a snippet by its language, with variables; Go programs are built within this module.
func command(t *testing.T, path string, env ...string) *exec.Cmd {
	t.Helper()
	var cmd *exec.Cmd
	switch filepath.Ext(path) {
	case ".go":
		built := strings.TrimSuffix(path, ".go")
		build := exec.CommandContext(t.Context(), "go", "build", "-o", built, path)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", filepath.Base(path), err, out)
		}
		cmd = exec.CommandContext(t.Context(), built)
	case ".js":
		cmd = exec.CommandContext(t.Context(), "node", path)
	case ".py":
		cmd = exec.CommandContext(t.Context(), "python3", path)
	case ".sh":
		cmd = exec.CommandContext(t.Context(), "sh", path)
	default:
		t.Fatalf("no way to run %s", path)
	}
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = t.Output()
	return cmd
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// lines are a running command's lines of output; the command is killed when the test ends.
func lines(t *testing.T, cmd *exec.Cmd) <-chan string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, done := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(out); s.Scan(); {
			said <- s.Text()
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		cmd.Wait()
	})
	return said
}

func listening(t *testing.T, address string) {
	t.Helper()
	rig.Eventually(t, address+" listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func await(t *testing.T, said <-chan string, what string) string {
	t.Helper()
	for late := time.After(rig.Within); ; {
		select {
		case line := <-said:
			if strings.Contains(line, what) {
				return line
			}
		case <-late:
			t.Fatalf("no line with %q", what)
		}
	}
}

// TestSnippets publishes with the README's snippets and receives with its receivers: each verifies what Sealpost sends and
// refuses what somebody else does.
func TestSnippets(t *testing.T) {
	t.Parallel()
	files := snippets(t)
	publishers, receivers := []string{"publish.sh", "publish.go"}, []string{"receive.go", "receive.js", "receive.py"}
	for _, name := range append(publishers, receivers...) {
		if files[name] == "" {
			t.Fatalf("the README has no snippet %s", name)
		}
	}
	p := rig.Start(t, binary, rig.Dev())
	said := map[string]<-chan string{}
	address := map[string]string{}
	for _, name := range receivers {
		address[name] = freeAddress(t)
		e := p.Register("http://"+address[name]+"/", rig.Object{"redaction": rig.Object{"mode": "DENY_LISTED", "drop": []string{"**.ssn"}}})
		said[name] = lines(t, command(t, files[name], "SECRET="+e.Secret, "ADDR="+address[name]))
	}
	for _, name := range receivers {
		listening(t, address[name])
	}
	token := p.OK("POST", "/v1/tokens", rig.Object{"account": "crm", "role": "PUBLISHER", "tenant": "acme"}).S("secret")
	for _, name := range publishers {
		cmd := command(t, files[name], "SEALPOST=http://"+p.HTTP, "SEALPOST_GRPC="+p.GRPC, "TOKEN="+token)
		out, err := cmd.Output()
		if err != nil || !strings.Contains(string(out), "evt_") {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	for _, name := range receivers {
		if line := await(t, said[name], "ann@example.com"); strings.Contains(line, "078-05-1120") || !strings.HasPrefix(line, "dlv_") {
			t.Errorf("%s received %s", name, line)
		}
		await(t, said[name], "bo@example.com")
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+address[name]+"/", strings.NewReader(`{"data":{}}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("webhook-id", "dlv_forged")
		req.Header.Set("webhook-timestamp", strconv.FormatInt(time.Now().Unix(), 10))
		req.Header.Set("webhook-signature", "v1,AAAA")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s answered a forged delivery with %d", name, resp.StatusCode)
		}
	}
	p.AwaitCount("tenant=acme&state=DELIVERED", len(receivers)*len(publishers))
}

// TestCommandsExist holds the README's shell lines against the binary: each sealpost command and flag in them is one.
func TestCommandsExist(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	joined := strings.ReplaceAll(string(text), "\\\n", " ")
	checked := 0
	for line := range strings.SplitSeq(joined, "\n") {
		line, _, _ = strings.Cut(line, "#")
		args := strings.Fields(strings.TrimSuffix(strings.TrimSpace(line), "&"))
		if len(args) < 2 || args[0] != "sealpost" {
			continue
		}
		var command []string
		for _, a := range args[1:] {
			if strings.HasPrefix(a, "-") {
				break
			}
			command = append(command, a)
		}
		help, err := exec.CommandContext(t.Context(), binary, append(command, "--help")...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		for _, a := range args {
			if flag, _, _ := strings.Cut(a, "="); strings.HasPrefix(flag, "--") && !strings.Contains(string(help), flag+" ") {
				t.Errorf("%s: %s has no flag %s", line, strings.Join(command, " "), flag)
			}
		}
		checked++
	}
	if checked < 5 {
		t.Errorf("only %d commands were found", checked)
	}
}
