package egress

import (
	"errors"
	"net/netip"
	"testing"

	"code.dny.dev/ssrf"
	"pgregory.net/rapid"
)

// Every range of the IANA special-purpose registries for IPv4 and IPv6 (as of 2026), and the ranges outside them that
// are refused too, each with the class of its first and last address.
var special = []struct {
	prefix      string
	first, last Class
}{
	{"0.0.0.0/8", ClassUnspecified, ClassThisNetwork},
	{"0.0.0.0/32", ClassUnspecified, ClassUnspecified},
	{"10.0.0.0/8", ClassPrivate, ClassPrivate},
	{"100.64.0.0/10", ClassShared, ClassShared},
	{"100.100.100.200/32", ClassMetadata, ClassMetadata},
	{"127.0.0.0/8", ClassLoopback, ClassLoopback},
	{"168.63.129.16/32", ClassMetadata, ClassMetadata},
	{"169.254.0.0/16", ClassLinkLocal, ClassLinkLocal},
	{"169.254.169.254/32", ClassMetadata, ClassMetadata},
	{"169.254.170.2/32", ClassMetadata, ClassMetadata},
	{"172.16.0.0/12", ClassPrivate, ClassPrivate},
	{"192.0.0.0/24", ClassProtocol, ClassProtocol},
	{"192.0.0.0/29", ClassProtocol, ClassProtocol},
	{"192.0.0.8/32", ClassProtocol, ClassProtocol},
	{"192.0.0.9/32", ClassProtocol, ClassProtocol},
	{"192.0.0.10/32", ClassProtocol, ClassProtocol},
	{"192.0.0.170/31", ClassProtocol, ClassProtocol},
	{"192.0.0.192/32", ClassMetadata, ClassMetadata},
	{"192.0.2.0/24", ClassDocumentation, ClassDocumentation},
	{"192.31.196.0/24", ClassAnycast, ClassAnycast},
	{"192.52.193.0/24", ClassAnycast, ClassAnycast},
	{"192.88.99.0/24", Class6to4, Class6to4},
	{"192.88.99.2/32", Class6to4, Class6to4},
	{"192.168.0.0/16", ClassPrivate, ClassPrivate},
	{"192.175.48.0/24", ClassAnycast, ClassAnycast},
	{"198.18.0.0/15", ClassBenchmark, ClassBenchmark},
	{"198.51.100.0/24", ClassDocumentation, ClassDocumentation},
	{"203.0.113.0/24", ClassDocumentation, ClassDocumentation},
	{"224.0.0.0/4", ClassMulticast, ClassMulticast},
	{"240.0.0.0/4", ClassReserved, ClassBroadcast},
	{"255.255.255.255/32", ClassBroadcast, ClassBroadcast},

	{"::/128", ClassUnspecified, ClassUnspecified},
	{"::1/128", ClassLoopback, ClassLoopback},
	{"::/96", ClassUnspecified, ClassIPv4Compatible},
	{"64:ff9b::/96", ClassNAT64, ClassNAT64},
	{"64:ff9b:1::/48", ClassNAT64, ClassNAT64},
	{"100::/64", ClassDiscard, ClassDiscard},
	{"100:0:0:1::/64", ClassDiscard, ClassDiscard},
	{"2001::/23", ClassTeredo, ClassProtocol},
	{"2001::/32", ClassTeredo, ClassTeredo},
	{"2001:1::1/128", ClassProtocol, ClassProtocol},
	{"2001:1::2/128", ClassProtocol, ClassProtocol},
	{"2001:1::3/128", ClassProtocol, ClassProtocol},
	{"2001:2::/48", ClassBenchmark, ClassBenchmark},
	{"2001:3::/32", ClassProtocol, ClassProtocol},
	{"2001:4:112::/48", ClassProtocol, ClassProtocol},
	{"2001:10::/28", ClassORCHID, ClassORCHID},
	{"2001:20::/28", ClassORCHID, ClassORCHID},
	{"2001:30::/28", ClassProtocol, ClassProtocol},
	{"2001:db8::/32", ClassDocumentation, ClassDocumentation},
	{"2002::/16", Class6to4, Class6to4},
	{"2620:4f:8000::/48", ClassAnycast, ClassAnycast},
	{"3ffe::/16", ClassReserved, ClassReserved},
	{"3fff::/20", ClassDocumentation, ClassDocumentation},
	{"5f00::/16", ClassSRv6, ClassSRv6},
	{"fc00::/7", ClassUniqueLocal, ClassUniqueLocal},
	{"fd00:ec2::254/128", ClassMetadata, ClassMetadata},
	{"fd20:ce::254/128", ClassMetadata, ClassMetadata},
	{"fe80::/10", ClassLinkLocal, ClassLinkLocal},
	{"fec0::/10", ClassSiteLocal, ClassSiteLocal},
	{"ff00::/8", ClassMulticast, ClassMulticast},
}

func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

func classOf(t *testing.T, g *Guard, addr netip.Addr) Class {
	t.Helper()
	got, err := g.Check(addr)
	if err == nil {
		if got != addr.Unmap() {
			t.Errorf("Check(%s) = %s", addr, got)
		}
		return ""
	}
	var forbidden *ForbiddenError
	if !errors.As(err, &forbidden) || !errors.Is(err, ErrForbiddenAddress) {
		t.Fatalf("Check(%s): %v is not a ForbiddenError", addr, err)
	}
	return forbidden.Class
}

func TestGuardBoundaries(t *testing.T) {
	t.Parallel()
	inSome := func(addr netip.Addr) bool {
		for _, s := range special {
			if netip.MustParsePrefix(s.prefix).Contains(addr) {
				return true
			}
		}
		return addr.Is6() && !netip.MustParsePrefix("2000::/3").Contains(addr)
	}
	g := &Guard{}
	for _, s := range special {
		p := netip.MustParsePrefix(s.prefix)
		first, last := p.Addr(), lastOf(p)
		if got := classOf(t, g, first); got != s.first {
			t.Errorf("%s: first %s is %q, want %q", s.prefix, first, got, s.first)
		}
		if got := classOf(t, g, last); got != s.last {
			t.Errorf("%s: last %s is %q, want %q", s.prefix, last, got, s.last)
		}
		for _, beside := range []netip.Addr{first.Prev(), last.Next()} {
			if !beside.IsValid() {
				continue
			}
			if refused := classOf(t, g, beside) != ""; refused != inSome(beside) {
				t.Errorf("%s: neighbour %s refused: %v, want %v", s.prefix, beside, refused, inSome(beside))
			}
		}
	}
	for _, edge := range []struct {
		addr   string
		public bool
	}{{"1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false}, {"2000::", true}, {"3fff:1000::", true}, {"4000::", false}, {"8.8.8.8", true}, {"2606:4700::1111", true}} {
		if got := classOf(t, g, netip.MustParseAddr(edge.addr)) == ""; got != edge.public {
			t.Errorf("%s public: %v, want %v", edge.addr, got, edge.public)
		}
	}
}

// A range that the registries' package knows and our table does not would only be called "reserved": this says so.
func TestGuardNamesEveryRegistryRange(t *testing.T) {
	t.Parallel()
	for _, p := range append(append([]netip.Prefix{ssrf.IPv6NAT64Prefix}, ssrf.IPv4DeniedPrefixes...), ssrf.IPv6DeniedPrefixes...) {
		named := false
		for _, r := range rules {
			named = named || r.prefix.Contains(p.Addr()) && r.prefix.Bits() <= p.Bits()
		}
		if !named {
			t.Errorf("%s is in no rule", p)
		}
	}
}

func TestGuardAllow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		allow, addr string
		want        Class
	}{
		{"127.0.0.0/8", "127.0.0.1", ""},
		{"127.0.0.0/8", "::ffff:127.0.0.1", ""}, // the same address: the kernel dials it over IPv4
		{"127.0.0.0/8", "::1", ClassLoopback},
		{"127.0.0.0/8", "::127.0.0.1", ClassIPv4Compatible},
		{"127.0.0.0/8", "64:ff9b::127.0.0.1", ClassNAT64},
		{"127.0.0.0/8", "2002:7f00:1::", Class6to4},
		{"127.0.0.0/8", "2001:0:0:0:0:0:80ff:fffe", ClassTeredo},
		{"::ffff:127.0.0.0/104", "127.0.0.1", ClassLoopback},
		{"::ffff:127.0.0.0/104", "::ffff:127.0.0.1", ClassLoopback},
		{"::1/128", "::1", ""},
		{"::1/128", "127.0.0.1", ClassLoopback},
		{"10.1.0.0/16", "10.1.255.255", ""},
		{"10.1.0.0/16", "10.2.0.0", ClassPrivate},
		{"0.0.0.0/0", "10.2.0.0", ""},
		{"0.0.0.0/0", "0.0.0.0", ClassUnspecified},
		{"0.0.0.0/0", "255.255.255.255", ClassBroadcast},
		{"0.0.0.0/0", "224.0.0.1", ClassMulticast},
		{"0.0.0.0/0", "169.254.169.254", ClassMetadata},
		{"169.254.0.0/16", "169.254.169.254", ClassMetadata},
		{"169.254.0.0/16", "169.254.1.1", ""},
		{"169.254.169.254/32", "169.254.169.254", ""},
		{"::/0", "::", ClassUnspecified},
		{"::/0", "ff02::1", ClassMulticast},
		{"::/0", "fd00:ec2::254", ClassMetadata},
		{"::/0", "fd00::1", ""},
		{"::/0", "64:ff9b::8.8.8.8", ClassNAT64},
		{"64:ff9b::/96", "64:ff9b::8.8.8.8", ""},
		{"64:ff9b::/96", "64:ff9b::10.0.0.1", ClassNAT64},
		{"64:ff9b:1::/48", "64:ff9b:1::8.8.8.8", ""},
		{"2002::/16", "2002:808:808::1", ""},
		{"2002::/16", "2002:a00:1::1", Class6to4},
		{"::/96", "::8.8.8.8", ""},
		{"::/96", "::10.0.0.1", ClassIPv4Compatible},
		{"fe80::/10", "fe80::1", ""},
		{"fe80::/10", "fe80::1%eth0", ClassZone},
		{"8.8.8.8/32", "::ffff:8.8.8.8", ""},
		{"4000::/16", "4000::1", ""},
	} {
		g := &Guard{Allow: []netip.Prefix{netip.MustParsePrefix(c.allow)}}
		if got := classOf(t, g, netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("allow %s: %s is %q, want %q", c.allow, c.addr, got, c.want)
		}
	}
	if got := classOf(t, &Guard{}, netip.Addr{}); got != ClassInvalid {
		t.Errorf("no address is %q", got)
	}
}

func TestGuardPorts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ports []uint16
		port  uint16
		want  bool
	}{{nil, 22, true}, {nil, 0, false}, {[]uint16{443, 8443}, 8443, true}, {[]uint16{443}, 22, false}} {
		_, err := (&Guard{Ports: c.ports}).CheckPort(netip.AddrPortFrom(netip.MustParseAddr("8.8.8.8"), c.port))
		if (err == nil) != c.want {
			t.Errorf("ports %v, %d: %v", c.ports, c.port, err)
		}
	}
}

// No spelling changes the answer, and no allowance opens an address that it does not cover.
func TestGuardProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var four [4]byte
		copy(four[:], rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4"))
		var other [4]byte
		copy(other[:], rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "allow"))
		allow, err := netip.AddrFrom4(other).Prefix(rapid.IntRange(0, 32).Draw(t, "bits"))
		if err != nil {
			t.Fatal(err)
		}
		g, closed := &Guard{Allow: []netip.Prefix{allow}}, &Guard{}
		addr := netip.AddrFrom4(four)
		_, plain := g.Check(addr)
		_, mapped := g.Check(netip.AddrFrom16(addr.As16()))
		if (plain == nil) != (mapped == nil) {
			t.Fatalf("%s: %v, mapped: %v", addr, plain, mapped)
		}
		if _, err := closed.Check(addr); err != nil && plain == nil && !allow.Contains(addr) {
			t.Fatalf("%s opened by %s", addr, allow)
		}
		for _, p := range []string{"64:ff9b::", "::"} {
			carrier := netip.MustParseAddr(p).As16()
			copy(carrier[12:], four[:])
			if _, err := g.Check(netip.AddrFrom16(carrier)); err == nil {
				t.Fatalf("%s opened by %s", netip.AddrFrom16(carrier), allow)
			}
		}
	})
}

func FuzzName(f *testing.F) {
	for _, seed := range []string{"example.com", "example.com.", "127.1", "0177.0.0.1", "2130706433", "0x7f000001", "a.0x7f", "a..b", "-", "x_y.z", "1.example", "例え"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if !isName(host) {
			return
		}
		if _, err := netip.ParseAddr(host); err == nil {
			t.Fatalf("%q is a name and an address", host)
		}
		if len(host) > 254 || isName(host+".1") || isName("a "+host) {
			t.Fatalf("%q", host)
		}
	})
}
