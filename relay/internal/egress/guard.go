package egress

import (
	"fmt"
	"net/netip"
	"slices"

	"code.dny.dev/ssrf"
)

// A Class says what kind of address was refused. It is all that a refusal tells: a partner who registers a name must
// not learn from it where the name leads inside our network.
type Class string

// The classes of addresses that are not dialled. The RFC that set each range aside is in the table below.
const (
	ClassInvalid        Class = "invalid" // not an address, or a host that is neither a literal nor a name
	ClassZone           Class = "zone"
	ClassPort           Class = "port"
	ClassUnspecified    Class = "unspecified"
	ClassThisNetwork    Class = "this-network"
	ClassPrivate        Class = "private"
	ClassShared         Class = "shared"
	ClassLoopback       Class = "loopback"
	ClassLinkLocal      Class = "link-local"
	ClassMetadata       Class = "metadata"
	ClassProtocol       Class = "protocol-assignments"
	ClassDocumentation  Class = "documentation"
	ClassAnycast        Class = "anycast"
	ClassBenchmark      Class = "benchmark"
	ClassMulticast      Class = "multicast"
	ClassBroadcast      Class = "broadcast"
	ClassReserved       Class = "reserved"
	ClassIPv4Compatible Class = "ipv4-compatible"
	ClassNAT64          Class = "nat64"
	Class6to4           Class = "6to4"
	ClassTeredo         Class = "teredo"
	ClassORCHID         Class = "orchid"
	ClassDiscard        Class = "discard"
	ClassUniqueLocal    Class = "unique-local"
	ClassSiteLocal      Class = "site-local"
	ClassSRv6           Class = "srv6"
)

type ruleKind uint8

const (
	allowable ruleKind = iota // opened by an allowed prefix that covers the address
	never                     // opened by nothing: no TCP connection to it makes sense, or it means this host
	exact                     // opened only by a prefix that names this one address
	within                    // opened only by a prefix inside the rule's own: "::/0" does not open it
)

type rule struct {
	prefix netip.Prefix
	class  Class
	kind   ruleKind
}

// rules is searched in order, so that a part of a range stands before the whole. The ranges are those of the IANA
// special-purpose registries (RFC 6890), also the few that IANA calls globally reachable but where no receiver can be,
// and what lies outside them: cloud metadata, site-local (RFC 3879), the returned 6bone (RFC 3701).
// Whatever is outside 2000::/3 and in no rule is ClassReserved.
var rules = []rule{
	{netip.MustParsePrefix("0.0.0.0/32"), ClassUnspecified, never}, // this host, on Linux
	{netip.MustParsePrefix("0.0.0.0/8"), ClassThisNetwork, allowable},
	{netip.MustParsePrefix("10.0.0.0/8"), ClassPrivate, allowable},         // RFC 1918
	{netip.MustParsePrefix("100.100.100.200/32"), ClassMetadata, exact},    // Alibaba Cloud
	{netip.MustParsePrefix("100.64.0.0/10"), ClassShared, allowable},       // RFC 6598, CGNAT
	{netip.MustParsePrefix("127.0.0.0/8"), ClassLoopback, allowable},       // RFC 1122
	{netip.MustParsePrefix("168.63.129.16/32"), ClassMetadata, exact},      // Azure's platform, a public address
	{netip.MustParsePrefix("169.254.169.254/32"), ClassMetadata, exact},    // most clouds
	{netip.MustParsePrefix("169.254.170.2/32"), ClassMetadata, exact},      // credentials of AWS ECS tasks
	{netip.MustParsePrefix("169.254.170.23/32"), ClassMetadata, exact},     // credentials of AWS EKS pods
	{netip.MustParsePrefix("169.254.0.0/16"), ClassLinkLocal, allowable},   // RFC 3927
	{netip.MustParsePrefix("172.16.0.0/12"), ClassPrivate, allowable},      // RFC 1918
	{netip.MustParsePrefix("192.0.0.192/32"), ClassMetadata, exact},        // Oracle Cloud
	{netip.MustParsePrefix("192.0.0.0/24"), ClassProtocol, allowable},      // RFC 6890
	{netip.MustParsePrefix("192.0.2.0/24"), ClassDocumentation, allowable}, // RFC 5737
	{netip.MustParsePrefix("192.31.196.0/24"), ClassAnycast, allowable},    // RFC 7535, AS112
	{netip.MustParsePrefix("192.52.193.0/24"), ClassAnycast, allowable},    // RFC 7450, AMT
	{netip.MustParsePrefix("192.88.99.0/24"), Class6to4, allowable},        // RFC 7526, relay anycast
	{netip.MustParsePrefix("192.168.0.0/16"), ClassPrivate, allowable},     // RFC 1918
	{netip.MustParsePrefix("192.175.48.0/24"), ClassAnycast, allowable},    // RFC 7534, AS112
	{netip.MustParsePrefix("198.18.0.0/15"), ClassBenchmark, allowable},    // RFC 2544
	{netip.MustParsePrefix("198.51.100.0/24"), ClassDocumentation, allowable},
	{netip.MustParsePrefix("203.0.113.0/24"), ClassDocumentation, allowable},
	{netip.MustParsePrefix("224.0.0.0/4"), ClassMulticast, never}, // RFC 1112
	{netip.MustParsePrefix("255.255.255.255/32"), ClassBroadcast, never},
	{netip.MustParsePrefix("240.0.0.0/4"), ClassReserved, allowable}, // RFC 1112

	{netip.MustParsePrefix("::/128"), ClassUnspecified, never},
	{netip.MustParsePrefix("::1/128"), ClassLoopback, allowable},
	{netip.MustParsePrefix("::/96"), ClassIPv4Compatible, within}, // RFC 4291 2.5.5.1
	{netip.MustParsePrefix("64:ff9b::/96"), ClassNAT64, within},   // RFC 6052
	{netip.MustParsePrefix("64:ff9b:1::/48"), ClassNAT64, within}, // RFC 8215
	{netip.MustParsePrefix("100::/64"), ClassDiscard, allowable},  // RFC 6666
	{netip.MustParsePrefix("100:0:0:1::/64"), ClassDiscard, allowable},
	{netip.MustParsePrefix("2001::/32"), ClassTeredo, within},         // RFC 4380
	{netip.MustParsePrefix("2001:2::/48"), ClassBenchmark, allowable}, // RFC 5180
	{netip.MustParsePrefix("2001:10::/28"), ClassORCHID, allowable},   // RFC 4843
	{netip.MustParsePrefix("2001:20::/28"), ClassORCHID, allowable},   // RFC 7343
	{netip.MustParsePrefix("2001::/23"), ClassProtocol, allowable},    // RFC 2928
	{netip.MustParsePrefix("2001:db8::/32"), ClassDocumentation, allowable},
	{netip.MustParsePrefix("2002::/16"), Class6to4, within}, // RFC 3056
	{netip.MustParsePrefix("2620:4f:8000::/48"), ClassAnycast, allowable},
	{netip.MustParsePrefix("3ffe::/16"), ClassReserved, allowable}, // RFC 3701
	{netip.MustParsePrefix("3fff::/20"), ClassDocumentation, allowable},
	{netip.MustParsePrefix("5f00::/16"), ClassSRv6, allowable},         // RFC 9602
	{netip.MustParsePrefix("fd00:ec2::254/128"), ClassMetadata, exact}, // AWS
	{netip.MustParsePrefix("fd20:ce::254/128"), ClassMetadata, exact},  // Google Cloud
	{netip.MustParsePrefix("fc00::/7"), ClassUniqueLocal, allowable},   // RFC 4193
	{netip.MustParsePrefix("fe80::/10"), ClassLinkLocal, allowable},
	{netip.MustParsePrefix("fec0::/10"), ClassSiteLocal, allowable}, // RFC 3879
	{netip.MustParsePrefix("ff00::/8"), ClassMulticast, never},
}

// A Guard decides which addresses may be dialled: public unicast, and what Allow opens. Its zero value allows public
// addresses only. It must not be changed once it is in use.
type Guard struct {
	// Allow opens reserved ranges. It cannot open the unspecified address, broadcast and multicast; it opens a cloud's
	// metadata address only by a prefix of that one address, and the forms that carry an IPv4 address inside an IPv6
	// address (NAT64, 6to4, Teredo, IPv4-compatible) only by a prefix within that form's own range, and then only if the
	// inner address may be dialled too. An IPv4 prefix in IPv6-mapped spelling opens nothing.
	Allow []netip.Prefix
	// Ports, where not empty, are the only ports that may be dialled.
	Ports []uint16
}

// ForbiddenError is why an address was not dialled. It matches ErrForbiddenAddress.
type ForbiddenError struct {
	Class Class
}

// Error names the class of address and nothing else.
func (e *ForbiddenError) Error() string {
	return fmt.Sprintf("%v: %s", ErrForbiddenAddress, e.Class)
}

// Unwrap makes errors.Is(err, ErrForbiddenAddress) true.
func (e *ForbiddenError) Unwrap() error { return ErrForbiddenAddress }

// Check returns the address that may be dialled for addr, in its one canonical form: an IPv4-mapped IPv6 address is the
// IPv4 address that the kernel would dial for it, so that no rule and no allowance depends on the spelling. It returns a
// ForbiddenError otherwise.
func (g *Guard) Check(addr netip.Addr) (netip.Addr, error) {
	if !addr.IsValid() {
		return netip.Addr{}, &ForbiddenError{ClassInvalid}
	}
	if addr.Zone() != "" {
		return netip.Addr{}, &ForbiddenError{ClassZone}
	}
	addr = addr.Unmap()
	if class, ok := g.decide(addr); !ok {
		return netip.Addr{}, &ForbiddenError{class}
	}
	return addr, nil
}

// CheckPort is Check for an address and port.
func (g *Guard) CheckPort(to netip.AddrPort) (netip.AddrPort, error) {
	addr, err := g.Check(to.Addr())
	if err != nil {
		return netip.AddrPort{}, err
	}
	if to.Port() == 0 || len(g.Ports) > 0 && !slices.Contains(g.Ports, to.Port()) {
		return netip.AddrPort{}, &ForbiddenError{ClassPort}
	}
	return netip.AddrPortFrom(addr, to.Port()), nil
}

func (g *Guard) decide(addr netip.Addr) (Class, bool) {
	for _, r := range rules {
		if r.prefix.Contains(addr) {
			return r.class, g.opens(r, addr)
		}
	}
	if reserved(addr) {
		return ClassReserved, g.opens(rule{class: ClassReserved}, addr)
	}
	return "", true
}

// reserved asks the registries that the ssrf package is generated from, so that a range newer than our table is
// refused as soon as that package knows it.
func reserved(addr netip.Addr) bool {
	denied := ssrf.IPv4DeniedPrefixes
	if addr.Is6() {
		if !ssrf.IPv6GlobalUnicast.Contains(addr) {
			return true
		}
		denied = ssrf.IPv6DeniedPrefixes
	}
	return slices.ContainsFunc(denied, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (g *Guard) opens(r rule, addr netip.Addr) bool {
	if r.kind == never {
		return false
	}
	return slices.ContainsFunc(g.Allow, func(p netip.Prefix) bool {
		switch {
		case !p.Contains(addr):
			return false
		case r.kind == exact:
			return p.IsSingleIP()
		case r.kind == within:
			return p.Bits() >= r.prefix.Bits() && g.innerAllowed(r, addr)
		default:
			return true
		}
	})
}

// innerAllowed is whether the IPv4 address that a gateway would take out of addr may itself be dialled.
func (g *Guard) innerAllowed(r rule, addr netip.Addr) bool {
	b := addr.As16()
	var inner [4]byte
	switch {
	case r.class == Class6to4:
		copy(inner[:], b[2:6])
	case r.class == ClassTeredo: // RFC 4380 section 4: the client's address, inverted
		for i := range inner {
			inner[i] = ^b[12+i]
		}
	default:
		// IPv4-compatible and NAT64 with a /96. Within 64:ff9b:1::/48 an operator may lay out other lengths (RFC 6052
		// 2.2), which cannot be told from the address; who allows such a prefix answers for the gateway's own filter.
		copy(inner[:], b[12:16])
	}
	_, ok := g.decide(netip.AddrFrom4(inner))
	return ok
}
