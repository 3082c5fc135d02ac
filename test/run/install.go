package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// program is one that tests start, with its package's name by package manager.
type program struct {
	name     string
	why      string
	packages map[string]string
	probe    []string // arguments with which it must succeed, where being there is not enough
}

// there tells whether the program can be used, and where it is.
func (p program) there(ctx context.Context) (path string, ok bool) {
	path, err := exec.LookPath(p.name)
	if err != nil || p.probe == nil {
		return path, err == nil
	}
	return path, exec.CommandContext(ctx, path, p.probe...).Run() == nil
}

var programs = []program{
	{"redis-server", "the store suite runs on a real Redis", names("redis-server", "redis", "redis", "redis"), nil},
	{"redis-cli", "the store suite makes a Redis Cluster", names("redis-tools", "redis", "redis", "redis"), nil},
	{"gcc", "the race detector needs cgo", names("gcc libc6-dev", "gcc", "build-base", "gcc"), nil},
	{"curl", "the README publishes with it", names("curl", "curl", "curl", "curl"), nil},
	{"node", "receivers in Node verify deliveries", names("nodejs", "nodejs", "nodejs", "node"), nil},
	{"npm", "vendors' libraries in Node verify deliveries", names("npm", "npm", "npm", "node"), nil},
	{"javac", "receivers in Java verify deliveries", names("default-jdk-headless", "java-21-openjdk-devel", "openjdk21-jdk", "openjdk"), nil},
	{"mvn", "the library of Standard Webhooks in Java verifies deliveries", names("maven", "maven", "maven", "maven"), nil},
	{"python3", "receivers in Python verify deliveries", names("python3-venv", "python3", "python3", "python3"), []string{"-c", "import ensurepip, venv"}},
}

func names(apt, dnf, apk, brew string) map[string]string {
	return map[string]string{"apt-get": apt, "dnf": dnf, "apk": apk, "brew": brew}
}

var managers = []struct {
	name    string
	update  []string
	install []string
	root    bool
}{
	{"apt-get", []string{"update", "-q"}, []string{"install", "-y", "-q", "--no-install-recommends"}, true},
	{"dnf", nil, []string{"install", "-y"}, true},
	{"apk", []string{"update"}, []string{"add"}, true},
	{"brew", nil, []string{"install"}, false},
}

// installMissing installs the programs that are missing by the system's package manager, or says which are to be installed
// by hand, and what for.
func installMissing(ctx context.Context) error {
	var missing []program
	for _, p := range programs {
		if path, ok := p.there(ctx); ok {
			fmt.Printf("%s: %s\n", p.name, path)
		} else {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	for _, m := range managers {
		if _, err := exec.LookPath(m.name); err != nil {
			continue
		}
		var as []string
		if m.root && os.Geteuid() != 0 {
			as = []string{"sudo", "-n"}
		}
		packages := m.install
		for _, p := range missing {
			fmt.Printf("%s is missing (%s): installing\n", p.name, p.why)
			packages = append(packages, strings.Fields(p.packages[m.name])...)
		}
		os.Setenv("DEBIAN_FRONTEND", "noninteractive")
		for _, args := range [][]string{m.update, packages} {
			if args == nil {
				continue
			}
			all := append(append(as, m.name), args...)
			if err := command(all[0], all[1:]...)(ctx); err != nil {
				return errors.Join(err, byHand(missing))
			}
		}
		return nil
	}
	return byHand(missing)
}

func byHand(missing []program) error {
	var b strings.Builder
	b.WriteString("install these programs and run again:")
	for _, p := range missing {
		fmt.Fprintf(&b, "\n  %s: %s", p.name, p.why)
	}
	return errors.New(b.String())
}
