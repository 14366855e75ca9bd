/*
 * target.c
 *		Which URLs and addresses may be sent to.
 *
 * Customers supply URLs, and the requests leave from the database server,
 * which can reach internal services that the customers must not.  Two checks
 * guard against that (server-side request forgery).
 *
 * cwh_target_check_url() checks the text of a URL.  It accepts a much narrower
 * language than libcurl, so that no two parsers can disagree about the scheme,
 * the host or the port of an accepted URL.
 *
 * cwh_target_check_address() checks the address that is about to be connected
 * to.  It is called from libcurl's socket callback, after name resolution, so
 * neither a name that resolves to an internal address nor a DNS answer that
 * changes between two lookups can get around it.
 *
 * This file knows nothing of PostgreSQL and libcurl, has no state and
 * allocates nothing.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "target.h"

#define lengthof(array)		(sizeof(array) / sizeof((array)[0]))

/* The longest label that DNS allows. */
#define MAX_LABEL_LEN		63

/* Why an address is refused, as each of the two checks words it. */
typedef struct Refusal
{
	const char *address;
	const char *host;
} Refusal;

#define REFUSAL(article, name)	{name, "the host is " article " " name}

#define BENCHMARKING	REFUSAL("a", "benchmarking address")
#define BROADCAST		REFUSAL("a", "broadcast address")
#define COMPATIBLE		REFUSAL("an", "IPv4-compatible address")
#define DISCARD			REFUSAL("a", "discard address")
#define DOCUMENTATION	REFUSAL("a", "documentation address")
#define LINK_LOCAL		REFUSAL("a", "link-local address")
#define LOOPBACK		REFUSAL("a", "loopback address")
#define METADATA		REFUSAL("a", "cloud metadata address")
#define MULTICAST		REFUSAL("a", "multicast address")
#define NAT64			REFUSAL("a", "NAT64 address")
#define PRIVATE			REFUSAL("a", "private address")
#define PROTOCOL		REFUSAL("a", "protocol assignment address")
#define RESERVED		REFUSAL("a", "reserved address")
#define SHARED			REFUSAL("a", "shared address")
#define SIX_TO_FOUR		REFUSAL("a", "6to4 address")
#define TEREDO			REFUSAL("a", "Teredo address")
#define TRANSLATED		REFUSAL("an", "IPv4-translated address")
#define UNSPECIFIED		REFUSAL("an", "unspecified address")

typedef struct RefusedRange
{
	CwhNetwork	network;
	Refusal		refusal;
} RefusedRange;

/*
 * Addresses outside the public internet.  The first matching row gives the
 * reason, so a narrower range precedes a wider one that contains it.
 *
 * The ranges are those of the IANA IPv4 and IPv6 Special-Purpose Address
 * Registries (RFC 6890 and its updates) and of the IANA address space
 * registries.  A few ranges that the former call globally reachable are
 * refused too, since they have no receivers: relays, anycast services of
 * protocols, NAT64.  The addresses of cloud metadata services are from their
 * providers' documentation.
 */
static const RefusedRange refused_ranges[] = {
	/* Cloud metadata services, mostly within ranges further down */
	{{AF_INET, 32, {169, 254, 169, 254}}, METADATA},	/* nearly all */
	{{AF_INET, 32, {169, 254, 170, 2}}, METADATA},	/* AWS, containers */
	{{AF_INET, 32, {169, 254, 170, 23}}, METADATA}, /* AWS, Kubernetes */
	{{AF_INET, 32, {169, 254, 42, 42}}, METADATA},	/* Scaleway */
	{{AF_INET, 32, {168, 63, 129, 16}}, METADATA},	/* Azure */
	{{AF_INET, 32, {100, 100, 100, 200}}, METADATA},	/* Alibaba */
	{{AF_INET, 32, {192, 0, 0, 192}}, METADATA},	/* Oracle, the older */
	/* fd00:ec2::254 and fd00:ec2::23, AWS */
	{{AF_INET6, 128, {0xfd, 0, 0x0e, 0xc2,[14] = 0x02, 0x54}}, METADATA},
	{{AF_INET6, 128, {0xfd, 0, 0x0e, 0xc2,[14] = 0, 0x23}}, METADATA},
	/* fd20:ce::254, Google */
	{{AF_INET6, 128, {0xfd, 0x20, 0, 0xce,[14] = 0x02, 0x54}}, METADATA},
	/* fd00:42::42, Scaleway */
	{{AF_INET6, 128, {0xfd, 0, 0, 0x42,[14] = 0, 0x42}}, METADATA},
	/* fe80::a9fe:a9fe, OpenStack */
	{{AF_INET6, 128, {0xfe, 0x80,[12] = 0xa9, 0xfe, 0xa9, 0xfe}}, METADATA},

	/* IPv4 */
	{{AF_INET, 8, {0}}, UNSPECIFIED},	/* RFC 791, "this network" */
	{{AF_INET, 8, {10}}, PRIVATE},	/* RFC 1918 */
	{{AF_INET, 10, {100, 64}}, SHARED}, /* RFC 6598, carrier-grade NAT */
	{{AF_INET, 8, {127}}, LOOPBACK},	/* RFC 1122 */
	{{AF_INET, 16, {169, 254}}, LINK_LOCAL},	/* RFC 3927 */
	{{AF_INET, 12, {172, 16}}, PRIVATE},	/* RFC 1918 */
	{{AF_INET, 24, {192, 0, 0}}, PROTOCOL}, /* RFC 6890 */
	{{AF_INET, 24, {192, 0, 2}}, DOCUMENTATION},	/* RFC 5737 */
	{{AF_INET, 24, {192, 88, 99}}, SIX_TO_FOUR},	/* RFC 7526, relays */
	{{AF_INET, 16, {192, 168}}, PRIVATE},	/* RFC 1918 */
	{{AF_INET, 15, {198, 18}}, BENCHMARKING},	/* RFC 2544 */
	{{AF_INET, 24, {198, 51, 100}}, DOCUMENTATION}, /* RFC 5737 */
	{{AF_INET, 24, {203, 0, 113}}, DOCUMENTATION},	/* RFC 5737 */
	{{AF_INET, 4, {224}}, MULTICAST},	/* RFC 5771 */
	{{AF_INET, 32, {255, 255, 255, 255}}, BROADCAST},	/* RFC 919 */
	{{AF_INET, 4, {240}}, RESERVED},	/* RFC 1112 */

	/* IPv6 */
	{{AF_INET6, 128, {0}}, UNSPECIFIED},	/* RFC 4291 */
	{{AF_INET6, 128, {[15] = 1}}, LOOPBACK},	/* RFC 4291 */
	{{AF_INET6, 96, {0}}, COMPATIBLE},	/* RFC 4291 */
	{{AF_INET6, 96, {[8] = 0xff, 0xff}}, TRANSLATED},	/* RFC 2765 */
	{{AF_INET6, 96, {0, 0x64, 0xff, 0x9b}}, NAT64}, /* RFC 6052 */
	{{AF_INET6, 48, {0, 0x64, 0xff, 0x9b, 0, 1}}, NAT64},	/* RFC 8215 */
	{{AF_INET6, 64, {0x01}}, DISCARD},	/* RFC 6666 */
	{{AF_INET6, 32, {0x20, 0x01}}, TEREDO}, /* RFC 4380 */
	{{AF_INET6, 48, {0x20, 0x01, 0, 0x02}}, BENCHMARKING},	/* RFC 5180 */
	{{AF_INET6, 23, {0x20, 0x01}}, PROTOCOL},	/* RFC 2928, with ORCHID */
	{{AF_INET6, 32, {0x20, 0x01, 0x0d, 0xb8}}, DOCUMENTATION},	/* RFC 3849 */
	{{AF_INET6, 16, {0x20, 0x02}}, SIX_TO_FOUR},	/* RFC 3056 */
	{{AF_INET6, 20, {0x3f, 0xff}}, DOCUMENTATION},	/* RFC 9637 */
	{{AF_INET6, 7, {0xfc}}, PRIVATE},	/* RFC 4193, unique local */
	{{AF_INET6, 10, {0xfe, 0x80}}, LINK_LOCAL}, /* RFC 4291 */
	{{AF_INET6, 10, {0xfe, 0xc0}}, PRIVATE},	/* RFC 3879, site-local */
	{{AF_INET6, 8, {0xff}}, MULTICAST}, /* RFC 4291 */

	/* Everything outside global unicast, 2000::/3 (RFC 4291) */
	{{AF_INET6, 3, {0x00}}, RESERVED},
	{{AF_INET6, 2, {0x40}}, RESERVED},
	{{AF_INET6, 1, {0x80}}, RESERVED}
};

/* Refusals that are not tied to a range */
static const Refusal denied_refusal =
REFUSAL("an", "address in a denied network");
static const Refusal isatap_refusal = REFUSAL("an", "ISATAP address");

/*
 * Ports of services that a forged request could attack, and where no webhook
 * receiver listens.
 *
 * The first part is the WHATWG Fetch standard's list of bad ports, which
 * browsers follow.  The second part adds services that servers are likely to
 * have nearby: data stores, queues, coordination, container and machine
 * management.  Most are from the IANA port registry, the rest are the
 * programs' defaults.  Some of them speak HTTP and trust every client that can
 * reach them.  Ports that are also used to serve the web (8000, 8080, 8443,
 * 8888, 9000 and the like) are not listed.
 */
static const uint16_t dangerous_ports[] = {
	/* WHATWG Fetch, "port blocking" */
	1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77,
	79, 87, 95, 101, 102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123,
	135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530,
	531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995,
	1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665,
	6666, 6667, 6668, 6669, 6679, 6697, 10080,

	88, 464,					/* Kerberos */
	445,						/* SMB */
	623, 664,					/* IPMI and other remote management */
	631,						/* printing */
	873,						/* rsync */
	1080, 3128,					/* SOCKS and Squid: proxies */
	1099, 7199,					/* Java RMI and JMX */
	1433, 1434,					/* SQL Server */
	1521, 2483, 2484,			/* Oracle */
	1883, 8883,					/* MQTT */
	2181,						/* ZooKeeper */
	2375, 2376, 2377,			/* Docker */
	2379, 2380,					/* etcd */
	3260,						/* iSCSI */
	3268, 3269,					/* LDAP global catalog */
	3306, 33060,				/* MySQL */
	3389,						/* remote desktop */
	4222, 6222, 8222,			/* NATS */
	4369, 25672,				/* Erlang's port mapper and distribution */
	5432, 5433, 6432,			/* PostgreSQL, PgBouncer */
	5671, 5672, 15672,			/* AMQP, RabbitMQ's management */
	5900, 5901,					/* VNC */
	5984, 6984,					/* CouchDB */
	5985, 5986,					/* Windows remote management */
	6379, 6380, 16379, 26379,	/* Redis, its cluster bus and Sentinel */
	6443, 10250, 10255, 10256, 10257, 10259,	/* Kubernetes */
	7000, 7001, 9042, 9160,		/* Cassandra */
	7474, 7687,					/* Neo4j */
	8086,						/* InfluxDB */
	8200, 8201,					/* Vault */
	8300, 8301, 8302, 8500, 8501,	/* Consul */
	9092, 9093,					/* Kafka */
	9200, 9300,					/* Elasticsearch */
	11211,						/* memcached */
	27017, 27018, 27019,		/* MongoDB */
	61613, 61616				/* ActiveMQ */
};

/*
 * Names that resolve to this machine without a name server: libcurl and most
 * resolvers have the first one built in (RFC 6761), and systems put the others
 * into /etc/hosts.
 */
static const char *const loopback_names[] = {
	"localhost",
	"localhost.localdomain",
	"ip6-localhost",
	"ip6-loopback"
};

/*
 * Characters are classified without ctype.h, which depends on the locale.
 */

/* Is this an ASCII digit? */
static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Is this an ASCII letter? */
static bool
is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Is this a hexadecimal digit? */
static bool
is_hex_digit(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Convert an ASCII letter to lower case. */
static char
to_lower(char c)
{
	return (c >= 'A' && c <= 'Z') ? (char) (c - 'A' + 'a') : c;
}

/*
 * Parse a decimal number up to max; returns -1 on failure.  Signs, spaces and
 * leading zeros are refused, since other parsers read them differently.
 */
static int
parse_number(const char *input, size_t len, int max)
{
	int			value = 0;

	if (len == 0 || (len > 1 && input[0] == '0'))
		return -1;
	for (size_t i = 0; i < len; i++)
	{
		if (!is_digit(input[i]))
			return -1;
		value = value * 10 + (input[i] - '0');
		if (value > max)
			return -1;
	}
	return value;
}

/* Does the network contain this address? */
static bool
network_contains(const CwhNetwork *network, int family,
				 const unsigned char *address)
{
	int			bytes = network->bits / 8;
	int			bits = network->bits % 8;
	unsigned char mask = (unsigned char) (0xff00 >> bits);

	if (network->family != family)
		return false;
	if (memcmp(network->address, address, (size_t) bytes) != 0)
		return false;
	return bits == 0 ||
		(network->address[bytes] & mask) == (address[bytes] & mask);
}

/* Does one of the networks contain this address, and port? */
static bool
networks_contain(const CwhNetwork *networks, int n, int family,
				 const unsigned char *address, uint16_t port)
{
	for (int i = 0; i < n; i++)
	{
		if ((networks[i].port == 0 || networks[i].port == port) &&
			network_contains(&networks[i], family, address))
			return true;
	}
	return false;
}

/* Is this an IPv4-mapped IPv6 address, ::ffff:a.b.c.d? */
static bool
is_mapped(const unsigned char *address)
{
	static const unsigned char prefix[12] = {[10] = 0xff, 0xff};

	return memcmp(address, prefix, sizeof(prefix)) == 0;
}

/*
 * Is this an ISATAP address, whose interface identifier is 0:5efe:a.b.c.d or
 * 200:5efe:a.b.c.d in any network (RFC 5214)?
 */
static bool
is_isatap(const unsigned char *address)
{
	return (address[8] & 0xfc) == 0 && address[9] == 0 &&
		address[10] == 0x5e && address[11] == 0xfe;
}

/*
 * Find the IPv4 address to which a tunnel or a translator would send a packet
 * for this IPv6 address.  Returns false if there is none.
 *
 * Of the NAT64 prefixes, only the well-known one always has the address at its
 * end; with the one for local use (64:ff9b:1::/48) it can be anywhere.
 */
static bool
carried_ipv4(const unsigned char *address, unsigned char *ipv4)
{
	static const unsigned char zeros[15] = {0};
	static const unsigned char translated[12] = {[8] = 0xff, 0xff};
	static const unsigned char nat64[12] = {0, 0x64, 0xff, 0x9b};
	static const unsigned char teredo[4] = {0x20, 0x01};
	static const unsigned char six_to_four[2] = {0x20, 0x02};

	if (memcmp(address, zeros, 12) == 0)
	{
		/* :: and ::1 carry no IPv4 address. */
		if (memcmp(address, zeros, 15) == 0 && address[15] <= 1)
			return false;
		memcpy(ipv4, address + 12, 4);
		return true;
	}
	if (memcmp(address, translated, sizeof(translated)) == 0 ||
		memcmp(address, nat64, sizeof(nat64)) == 0 ||
		is_isatap(address))
	{
		memcpy(ipv4, address + 12, 4);
		return true;
	}
	if (memcmp(address, six_to_four, sizeof(six_to_four)) == 0)
	{
		memcpy(ipv4, address + 2, 4);
		return true;
	}
	if (memcmp(address, teredo, sizeof(teredo)) == 0)
	{
		/* The client's address, with all bits inverted. */
		for (int i = 0; i < 4; i++)
			ipv4[i] = address[12 + i] ^ 0xff;
		return true;
	}
	return false;
}

/*
 * Judge an address: NULL if it may be connected to.
 *
 * The kernel makes an IPv4 connection to a mapped address, so it is judged as
 * an IPv4 address only.
 *
 * Any other IPv6 address that carries an IPv4 address is refused, even if the
 * latter is public: its route depends on tunnels and translators that we do
 * not know.  An administrator who knows them (of a host with IPv6 only, behind
 * a NAT64) can allow the carrying network.  The IPv4 addresses that it carries
 * are then still judged by themselves.
 */
static const Refusal *
judge(const CwhTargetPolicy *policy, int family, const unsigned char *address,
	  uint16_t port)
{
	unsigned char ipv4[4];

	if (family == AF_INET6 && is_mapped(address))
		return judge(policy, AF_INET, address + 12, port);

	if (networks_contain(policy->denied, policy->ndenied, family, address,
						 port))
		return &denied_refusal;

	if (family == AF_INET6 && carried_ipv4(address, ipv4))
	{
		const Refusal *refusal = judge(policy, AF_INET, ipv4, port);

		if (refusal != NULL)
			return refusal;
	}

	if (networks_contain(policy->allowed, policy->nallowed, family, address,
						 port))
		return NULL;

	for (size_t i = 0; i < lengthof(refused_ranges); i++)
	{
		if (network_contains(&refused_ranges[i].network, family, address))
			return &refused_ranges[i].refusal;
	}
	if (family == AF_INET6 && is_isatap(address))
		return &isatap_refusal;
	return NULL;
}

/*
 * Check every character of a URL.
 *
 * Control characters could end the request line; parsers disagree about
 * spaces, backslashes and bytes outside ASCII, above all in the host.  A
 * fragment is refused rather than ignored: it would never be sent, so the URL
 * does not mean what its author thinks.
 */
static const char *
check_characters(const char *url, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) url[i];

		if (c < 0x20 || c == 0x7f)
			return "the URL contains a control character";
		if (c > 0x7f)
			return "the URL contains a character outside ASCII";
		if (c == ' ')
			return "the URL contains a space";
		if (c == '\\')
			return "the URL contains a backslash";
		if (c == '#')
			return "the URL contains a fragment";
	}
	return NULL;
}

/* Does the text name this scheme, in any case? */
static bool
is_scheme(const char *input, size_t len, const char *scheme)
{
	if (len != strlen(scheme))
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (to_lower(input[i]) != scheme[i])
			return false;
	}
	return true;
}

/*
 * Check the scheme and the two slashes after it, and set *len to their length.
 * libcurl also accepts one slash, or three.
 */
static const char *
parse_scheme(const CwhTargetPolicy *policy, const char *url, size_t url_len,
			 CwhTarget *target, size_t *len)
{
	size_t		n = 0;

	while (n < url_len &&
		   (is_letter(url[n]) || is_digit(url[n]) ||
			url[n] == '+' || url[n] == '-' || url[n] == '.'))
		n++;
	if (n == 0 || n == url_len || url[n] != ':')
		return "the URL is not absolute";

	if (is_scheme(url, n, "https"))
		target->https = true;
	else if (policy->allow_http && is_scheme(url, n, "http"))
		target->https = false;
	else if (policy->allow_http)
		return "the scheme is not http or https";
	else
		return "the scheme is not https";

	if (url_len - n < 3 || url[n + 1] != '/' || url[n + 2] != '/')
		return "the URL is not absolute";
	*len = n + 3;
	return NULL;
}

/* May this port be connected to? */
static bool
port_is_allowed(const CwhTargetPolicy *policy, uint16_t port)
{
	if (policy->nports > 0)
	{
		for (int i = 0; i < policy->nports; i++)
		{
			if (policy->ports[i] == port)
				return true;
		}
		return false;
	}

	for (size_t i = 0; i < lengthof(dangerous_ports); i++)
	{
		if (dangerous_ports[i] == port)
			return false;
	}
	return true;
}

/*
 * Parse the port behind the host, if there is one.  A colon alone is refused,
 * though libcurl takes it for the default port.
 */
static const char *
parse_port(const CwhTargetPolicy *policy, const char *input, size_t len,
		   CwhTarget *target)
{
	int			port = target->https ? 443 : 80;

	if (len > 0)
	{
		if (input[0] != ':')
			return "the host is not valid";
		port = parse_number(input + 1, len - 1, UINT16_MAX);
		if (port < 1)
			return "the port is not a number from 1 to 65535";
	}

	target->port = (uint16_t) port;
	if (!port_is_allowed(policy, target->port))
		return "the port is not allowed";
	return NULL;
}

/*
 * The port that the host is judged with, before parse_port() says what is wrong
 * with it; 0 if anything is.
 */
static uint16_t
guess_port(const char *input, size_t len, bool https)
{
	int			port = https ? 443 : 80;

	if (len > 0)
		port = input[0] == ':' ? parse_number(input + 1, len - 1, UINT16_MAX) : 0;
	return (uint16_t) (port < 0 ? 0 : port);
}

/* Check a host in brackets, which are not part of the input. */
static const char *
parse_ipv6_host(const CwhTargetPolicy *policy, const char *input, size_t len,
				CwhTarget *target)
{
	char		buffer[INET6_ADDRSTRLEN];
	unsigned char address[16];
	const Refusal *refusal;

	/*
	 * This refuses zone identifiers, too, which only link-local addresses
	 * have.
	 */
	if (len >= sizeof(buffer))
		return "the host is not a valid IPv6 address";
	for (size_t i = 0; i < len; i++)
	{
		if (!is_hex_digit(input[i]) && input[i] != ':' && input[i] != '.')
			return "the host is not a valid IPv6 address";
	}
	memcpy(buffer, input, len);
	buffer[len] = '\0';
	if (inet_pton(AF_INET6, buffer, address) != 1)
		return "the host is not a valid IPv6 address";

	refusal = judge(policy, AF_INET6, address, target->port);
	if (refusal != NULL)
		return refusal->host;

	inet_ntop(AF_INET6, address, target->host, sizeof(target->host));
	target->literal = true;
	return NULL;
}

/*
 * Does the last label of the host look like a number, decimal, octal or
 * hexadecimal?  No name ends like that, but every text that inet_aton()
 * accepts as an IPv4 address does.  (The WHATWG URL standard has the same
 * test.)
 */
static bool
ends_in_number(const char *host)
{
	const char *label = strrchr(host, '.');

	label = (label == NULL) ? host : label + 1;
	if (label[0] == '0' && label[1] == 'x')
	{
		label += 2;
		while (is_hex_digit(*label))
			label++;
		return *label == '\0';
	}
	if (!is_digit(*label))
		return false;
	while (is_digit(*label))
		label++;
	return *label == '\0';
}

/*
 * Check a host that looks like an IPv4 address.  target->host has no trailing
 * dot; input is the host as written.
 *
 * 2130706433, 0x7f.1, 0177.0.0.1 and 127.1 are all 127.0.0.1, and are refused
 * as that.  But even an allowed address is refused unless it is written in the
 * usual notation, because the libraries and proxies that read the URL after us
 * disagree about the others: 010.0.0.1 is 8.0.0.1 for some and 10.0.0.1 for
 * others.
 */
static const char *
parse_ipv4_host(const CwhTargetPolicy *policy, const char *input, size_t len,
				CwhTarget *target)
{
	char		usual[INET_ADDRSTRLEN];
	struct in_addr address;
	unsigned char bytes[4];
	const Refusal *refusal;

	if (inet_aton(target->host, &address) == 0)
		return "the host is not a valid IPv4 address";
	memcpy(bytes, &address.s_addr, sizeof(bytes));

	refusal = judge(policy, AF_INET, bytes, target->port);
	if (refusal != NULL)
		return refusal->host;

	inet_ntop(AF_INET, bytes, usual, sizeof(usual));
	if (strlen(usual) != len || memcmp(usual, input, len) != 0)
		return "the host is an IPv4 address in an unusual notation";

	target->literal = true;
	return NULL;
}

/*
 * Is this a name of the machine itself?  *.localhost is one as well
 * (RFC 6761).
 */
static bool
is_loopback_name(const char *host)
{
	static const char suffix[] = ".localhost";
	size_t		len = strlen(host);

	for (size_t i = 0; i < lengthof(loopback_names); i++)
	{
		if (strcmp(host, loopback_names[i]) == 0)
			return true;
	}
	return len >= sizeof(suffix) - 1 &&
		strcmp(host + len - (sizeof(suffix) - 1), suffix) == 0;
}

/* Is a connection to one of localhost's two addresses allowed? */
static bool
loopback_is_allowed(const CwhTargetPolicy *policy, uint16_t port)
{
	static const unsigned char ipv4[4] = {127, 0, 0, 1};
	static const unsigned char ipv6[16] = {[15] = 1};

	return judge(policy, AF_INET, ipv4, port) == NULL ||
		judge(policy, AF_INET6, ipv6, port) == NULL;
}

/*
 * Check a host without brackets: a name, or a text that a resolver would take
 * for an IPv4 address.
 */
static const char *
parse_host(const CwhTargetPolicy *policy, const char *input, size_t len,
		   CwhTarget *target)
{
	size_t		host_len = len;
	size_t		label_len = 0;

	/* "example.com." is "example.com" without the search list. */
	if (host_len > 0 && input[host_len - 1] == '.')
		host_len--;
	if (host_len == 0)
		return "the URL has no host";
	if (host_len > CWH_MAX_HOST_LEN)
		return "the host is too long";

	/* This refuses percent signs, too, which libcurl would decode. */
	for (size_t i = 0; i < host_len; i++)
	{
		char		c = input[i];

		if (c == '.')
		{
			if (label_len == 0)
				return "the host is not valid";
			label_len = 0;
		}
		else if (is_letter(c) || is_digit(c) || c == '-' || c == '_')
		{
			if (++label_len > MAX_LABEL_LEN)
				return "the host is not valid";
		}
		else
			return "the host is not valid";
		target->host[i] = to_lower(c);
	}
	target->host[host_len] = '\0';
	if (label_len == 0)
		return "the host is not valid";

	if (ends_in_number(target->host))
		return parse_ipv4_host(policy, input, len, target);
	if (is_loopback_name(target->host) &&
		!loopback_is_allowed(policy, target->port))
		return "the host is a name of this machine";
	return NULL;
}

/*
 * Check the text of a URL.  Returns NULL and fills in target if requests may
 * be sent to it, as far as the text can tell; else the reason why not.
 *
 * The path and the query may contain placeholders, {{name}}; braces are
 * allowed there as other characters are.  The values may bring characters that
 * are refused here, so check the URL again after filling it in.
 */
const char *
cwh_target_check_url(const CwhTargetPolicy *policy, const char *url,
					 size_t len, CwhTarget *target)
{
	const char *problem;
	const char *host;
	const char *end;			/* of host and port */
	const char *host_end;
	size_t		scheme_len;

	memset(target, 0, sizeof(*target));

	if (len > CWH_MAX_URL_LEN)
		return "the URL is too long";
	problem = check_characters(url, len);
	if (problem != NULL)
		return problem;
	problem = parse_scheme(policy, url, len, target, &scheme_len);
	if (problem != NULL)
		return problem;

	host = url + scheme_len;
	end = host;
	while (end < url + len && *end != '/' && *end != '?')
		end++;
	if (end == host)
		return "the URL has no host";
	if (memchr(host, '@', (size_t) (end - host)) != NULL)
		return "the URL contains a user name or password";

	if (*host == '[')
	{
		host++;
		host_end = memchr(host, ']', (size_t) (end - host));
		if (host_end == NULL)
			return "the host is not a valid IPv6 address";
		target->port = guess_port(host_end + 1, (size_t) (end - host_end - 1),
								  target->https);
		problem = parse_ipv6_host(policy, host, (size_t) (host_end - host),
								  target);
		host_end++;
	}
	else
	{
		host_end = memchr(host, ':', (size_t) (end - host));
		if (host_end == NULL)
			host_end = end;
		target->port = guess_port(host_end, (size_t) (end - host_end),
								  target->https);
		problem = parse_host(policy, host, (size_t) (host_end - host), target);
	}
	if (problem != NULL)
		return problem;

	return parse_port(policy, host_end, (size_t) (end - host_end), target);
}

/*
 * Check an address that is about to be connected to.  Returns NULL if that is
 * allowed, else which kind of address it is.
 *
 * The port is not checked by itself: it is the URL's, which has been checked, or
 * that of the administrator's proxy.
 */
const char *
cwh_target_check_address(const CwhTargetPolicy *policy,
						 const struct sockaddr *address)
{
	const Refusal *refusal;
	unsigned char bytes[16];
	uint16_t	port;

	switch (address->sa_family)
	{
		case AF_INET:
			memcpy(bytes,
				   &((const struct sockaddr_in *) address)->sin_addr, 4);
			port = ntohs(((const struct sockaddr_in *) address)->sin_port);
			break;
		case AF_INET6:
			memcpy(bytes,
				   &((const struct sockaddr_in6 *) address)->sin6_addr, 16);
			port = ntohs(((const struct sockaddr_in6 *) address)->sin6_port);
			break;
		case AF_UNIX:
			return "unix socket";
		default:
			return "address of an unknown family";
	}

	refusal = judge(policy, address->sa_family, bytes, port);
	return (refusal == NULL) ? NULL : refusal->address;
}

/*
 * Find the next item of a list, separated by commas, whitespace or both, and
 * advance *list past it.  Returns false at the end.
 */
static bool
next_item(const char **list, const char **item, size_t *len)
{
	static const char separators[] = ", \t\n\r\f\v";

	*item = *list + strspn(*list, separators);
	*len = strcspn(*item, separators);
	*list = *item + *len;
	return *len > 0;
}

/*
 * Parse a network, with a port behind the length of its prefix if it is for that
 * only.  Like PostgreSQL's cidr, this refuses bits to the right of the prefix:
 * the author of 10.1.2.3/8 may not mean all of 10.0.0.0/8.
 */
static const char *
parse_network(const char *input, size_t len, CwhNetwork *network)
{
	static const char malformed[] =
		"a network is neither an IP address nor one in CIDR notation";
	const char *slash = memchr(input, '/', len);
	size_t		address_len = slash ? (size_t) (slash - input) : len;
	char		buffer[INET6_ADDRSTRLEN];
	int			max_bits;

	if (address_len >= sizeof(buffer))
		return malformed;
	memcpy(buffer, input, address_len);
	buffer[address_len] = '\0';

	memset(network, 0, sizeof(*network));
	network->family = strchr(buffer, ':') ? AF_INET6 : AF_INET;
	max_bits = (network->family == AF_INET6) ? 128 : 32;
	if (inet_pton(network->family, buffer, network->address) != 1)
		return malformed;

	network->bits = max_bits;
	if (slash != NULL)
	{
		const char *end = input + len;
		const char *colon = memchr(slash, ':', (size_t) (end - slash));
		int			port = 0;

		if (colon != NULL)
		{
			port = parse_number(colon + 1, (size_t) (end - colon - 1),
								UINT16_MAX);
			end = colon;
		}
		network->bits = parse_number(slash + 1, (size_t) (end - slash - 1),
									 max_bits);
		if (network->bits < 0)
			return "the prefix length of a network is not valid";
		if (colon != NULL && port < 1)
			return "the port of a network is not a number from 1 to 65535";
		network->port = (uint16_t) port;
	}

	for (int bit = network->bits; bit < max_bits; bit++)
	{
		if (network->address[bit / 8] & (0x80 >> (bit % 8)))
			return "a network has bits set to the right of its prefix";
	}

	/* Mapped addresses are judged as IPv4, so convert their networks. */
	if (network->family == AF_INET6 && network->bits >= 96 &&
		is_mapped(network->address))
	{
		network->family = AF_INET;
		network->bits -= 96;
		memmove(network->address, network->address + 12, 4);
		memset(network->address + 4, 0, 12);
	}
	return NULL;
}

/*
 * Parse a list of networks.  Returns their number, or -1 and sets *problem.
 */
int
cwh_target_parse_networks(const char *list, CwhNetwork *networks, int max,
						  const char **problem)
{
	const char *item;
	size_t		len;
	int			n = 0;

	*problem = NULL;
	while (next_item(&list, &item, &len))
	{
		if (n >= max)
			*problem = "there are too many networks";
		else
			*problem = parse_network(item, len, &networks[n++]);
		if (*problem != NULL)
			return -1;
	}
	return n;
}

/*
 * Parse a list of ports.  Returns their number, or -1 and sets *problem.
 */
int
cwh_target_parse_ports(const char *list, uint16_t *ports, int max,
					   const char **problem)
{
	const char *item;
	size_t		len;
	int			n = 0;

	*problem = NULL;
	while (next_item(&list, &item, &len))
	{
		int			port = parse_number(item, len, UINT16_MAX);

		if (port < 1)
			*problem = "a port is not a number from 1 to 65535";
		else if (n >= max)
			*problem = "there are too many ports";
		else
			ports[n++] = (uint16_t) port;
		if (*problem != NULL)
			return -1;
	}
	return n;
}
