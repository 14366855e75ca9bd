/*
 * test_target.c
 *		Which URLs and addresses the guards of target.c refuse, and why.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "../../src/target.c"

#include "tap.h"

/* The policy of an installation that sets nothing. */
static const CwhTargetPolicy strict = {0};

/* The same with http allowed, so that schemes hide nothing else. */
static const CwhTargetPolicy plain = {.allow_http = true};

typedef struct RefusedCase
{
	const char *text;
	const char *reason;
} RefusedCase;

/* Refused URLs, checked with http allowed. */
static const RefusedCase hostile_urls[] = {
	/* not absolute, other schemes */
	{"", "the URL is not absolute"},
	{"/", "the URL is not absolute"},
	{"//example.com/", "the URL is not absolute"},
	{"://example.com/", "the URL is not absolute"},
	{"example.com", "the URL is not absolute"},
	{"example.com/hook", "the URL is not absolute"},
	{"https", "the URL is not absolute"},
	{"https:", "the URL is not absolute"},
	{"https:/", "the URL is not absolute"},
	{"https:/example.com/", "the URL is not absolute"},
	{"https:example.com", "the URL is not absolute"},
	{"https:x/example.com/", "the URL is not absolute"},
	{"{{url}}", "the URL is not absolute"},
	{"{{scheme}}://example.com/", "the URL is not absolute"},
	{"localhost:8080/", "the scheme is not http or https"},
	{"file:///etc/passwd", "the scheme is not http or https"},
	{"ftp://example.com/", "the scheme is not http or https"},
	{"gopher://example.com:70/_x", "the scheme is not http or https"},
	{"dict://example.com:11211/stat", "the scheme is not http or https"},
	{"ldap://example.com/", "the scheme is not http or https"},
	{"smb://example.com/share", "the scheme is not http or https"},
	{"scp://example.com/x", "the scheme is not http or https"},
	{"tftp://example.com/x", "the scheme is not http or https"},
	{"telnet://example.com/", "the scheme is not http or https"},
	{"ws://example.com/", "the scheme is not http or https"},
	{"wss://example.com/", "the scheme is not http or https"},
	{"unix:///var/run/docker.sock", "the scheme is not http or https"},
	{"http+unix://%2Fvar%2Frun%2Fdocker.sock/",
	"the scheme is not http or https"},
	{"jar:https://example.com/x!/", "the scheme is not http or https"},
	{"url:https://example.com/", "the scheme is not http or https"},
	{"javascript:alert(1)", "the scheme is not http or https"},
	{"data:text/plain,x", "the scheme is not http or https"},
	{"httpss://example.com/", "the scheme is not http or https"},
	{"http s://example.com/", "the URL contains a space"},

	/* characters */
	{" https://example.com/", "the URL contains a space"},
	{"https://example.com/ ", "the URL contains a space"},
	{"https://example.com /", "the URL contains a space"},
	{"https://example.com/a b", "the URL contains a space"},
	{"https://example.com/\r\nHost: evil",
	"the URL contains a control character"},
	{"https://example.com/\n", "the URL contains a control character"},
	{"https://exam\tple.com/", "the URL contains a control character"},
	{"ht\ntps://example.com/", "the URL contains a control character"},
	{"https://example.com/\x7f", "the URL contains a control character"},
	{"\x01https://example.com/", "the URL contains a control character"},
	{"https:\\\\example.com/", "the URL contains a backslash"},
	{"https://example.com\\@127.0.0.1/", "the URL contains a backslash"},
	{"https://127.0.0.1\\@example.com/", "the URL contains a backslash"},
	{"https://example.com/a\\b", "the URL contains a backslash"},
	{"https://ex\xc3\xa4mple.com/",
	"the URL contains a character outside ASCII"},
	{"https://\xe2\x93\x9b\xe2\x93\x9e\x63\x61lhost/",
	"the URL contains a character outside ASCII"},	/* circled letters */
	{"https://127\xe3\x80\x82" "0\xe3\x80\x82" "0\xe3\x80\x82" "1/",
	"the URL contains a character outside ASCII"},	/* ideographic stops */
	{"https://\xef\xbc\x91\xef\xbc\x92\xef\xbc\x97.0.0.1/",
	"the URL contains a character outside ASCII"},	/* full-width digits */
	{"https://example.com/\xc2\xa0",
	"the URL contains a character outside ASCII"},
	{"https://example.com/#top", "the URL contains a fragment"},
	{"https://example.com#@127.0.0.1/", "the URL contains a fragment"},
	{"https://127.0.0.1#.example.com/", "the URL contains a fragment"},

	/* user names and passwords */
	{"https://user@example.com/", "the URL contains a user name or password"},
	{"https://user:word@example.com/",
	"the URL contains a user name or password"},
	{"https://@example.com/", "the URL contains a user name or password"},
	{"https://:@example.com/", "the URL contains a user name or password"},
	{"https://example.com@127.0.0.1/",
	"the URL contains a user name or password"},
	{"https://example.com:443@127.0.0.1/",
	"the URL contains a user name or password"},
	{"https://a@b@127.0.0.1/", "the URL contains a user name or password"},
	{"https://127.0.0.1:80;@example.com/",
	"the URL contains a user name or password"},
	{"https://[::1]@example.com/", "the URL contains a user name or password"},

	/* hosts that are none */
	{"https://", "the URL has no host"},
	{"https:///", "the URL has no host"},
	{"https:///example.com/", "the URL has no host"},
	{"https:////example.com/", "the URL has no host"},
	{"https://?", "the URL has no host"},
	{"https://?@example.com/", "the URL has no host"},
	{"https://:443/", "the URL has no host"},
	{"https://./", "the URL has no host"},
	{"https://../", "the host is not valid"},
	{"https://.example.com/", "the host is not valid"},
	{"https://example..com/", "the host is not valid"},
	{"https://example.com../", "the host is not valid"},
	{"https://%6c%6f%63%61%6c%68%6f%73%74/", "the host is not valid"},
	{"https://127.0.0.1%2f.example.com/", "the host is not valid"},
	{"https://example.com%00.evil.com/", "the host is not valid"},
	{"https://example.com%23@evil.com/",
	"the URL contains a user name or password"},
	{"https://{{host}}/", "the host is not valid"},
	{"https://example.com{{path}}", "the host is not valid"},
	{"https://{example,evil}.com/", "the host is not valid"},
	{"https://example.com,evil.com/", "the host is not valid"},
	{"https://example.com;evil.com/", "the host is not valid"},
	{"https://example.com&evil.com/", "the host is not valid"},
	{"https://example.com$evil.com/", "the host is not valid"},
	{"https://*.example.com/", "the host is not valid"},
	{"https://example.com|evil/", "the host is not valid"},
	{"https://<example>/", "the host is not valid"},
	{"https://\"example.com\"/", "the host is not valid"},
	{"https://'example.com'/", "the host is not valid"},
	{"https://example.com!/", "the host is not valid"},
	{"https://example~.com/", "the host is not valid"},
	{"https://127.0.0.1,example.com/", "the host is not valid"},

	/* ports */
	{"https://example.com:/", "the port is not a number from 1 to 65535"},
	{"https://example.com:0/", "the port is not a number from 1 to 65535"},
	{"https://example.com:00443/", "the port is not a number from 1 to 65535"},
	{"https://example.com:65536/", "the port is not a number from 1 to 65535"},
	{"https://example.com:4294967739/",
	"the port is not a number from 1 to 65535"},	/* 443 in 32 bits */
	{"https://example.com:99999999999999999999/",
	"the port is not a number from 1 to 65535"},
	{"https://example.com:-443/", "the port is not a number from 1 to 65535"},
	{"https://example.com:+443/", "the port is not a number from 1 to 65535"},
	{"https://example.com:0x1bb/", "the port is not a number from 1 to 65535"},
	{"https://example.com:https/", "the port is not a number from 1 to 65535"},
	{"https://example.com:443:443/",
	"the port is not a number from 1 to 65535"},
	{"https://example.com:{{port}}/",
	"the port is not a number from 1 to 65535"},
	{"https://example.com:443%20/", "the port is not a number from 1 to 65535"},
	{"https://example.com:1/", "the port is not allowed"},
	{"https://example.com:22/", "the port is not allowed"},
	{"https://example.com:25/", "the port is not allowed"},
	{"https://example.com:53/", "the port is not allowed"},
	{"https://example.com:445/", "the port is not allowed"},
	{"https://example.com:2375/", "the port is not allowed"},
	{"https://example.com:2379/", "the port is not allowed"},
	{"https://example.com:3306/", "the port is not allowed"},
	{"https://example.com:5432/", "the port is not allowed"},
	{"https://example.com:6379/", "the port is not allowed"},
	{"https://example.com:9200/", "the port is not allowed"},
	{"https://example.com:10250/", "the port is not allowed"},
	{"https://example.com:11211/", "the port is not allowed"},
	{"https://example.com:27017/", "the port is not allowed"},
	{"https://8.8.8.8:5432/", "the port is not allowed"},
	{"https://[2606:4700::1111]:6379/", "the port is not allowed"},

	/* this machine, by name */
	{"https://localhost/", "the host is a name of this machine"},
	{"https://LOCALHOST/", "the host is a name of this machine"},
	{"https://localhost./", "the host is a name of this machine"},
	{"https://localhost:8443/", "the host is a name of this machine"},
	{"https://localhost?x", "the host is a name of this machine"},
	{"https://foo.localhost/", "the host is a name of this machine"},
	{"https://foo.bar.LocalHost./", "the host is a name of this machine"},
	{"https://localhost.localdomain/", "the host is a name of this machine"},
	{"https://ip6-localhost/", "the host is a name of this machine"},
	{"https://ip6-loopback/", "the host is a name of this machine"},

	/* IPv4 addresses in whatever notation */
	{"https://127.0.0.1/", "the host is a loopback address"},
	{"https://127.0.0.1./", "the host is a loopback address"},
	{"https://127.0.0.1:8443/", "the host is a loopback address"},
	{"https://127.255.255.254/", "the host is a loopback address"},
	{"https://2130706433/", "the host is a loopback address"},
	{"https://2130706433./", "the host is a loopback address"},
	{"https://0x7f000001/", "the host is a loopback address"},
	{"https://0X7F000001/", "the host is a loopback address"},
	{"https://0x00000000007f000001/", "the host is a loopback address"},
	{"https://017700000001/", "the host is a loopback address"},
	{"https://00000017700000001/", "the host is a loopback address"},
	{"https://127.1/", "the host is a loopback address"},
	{"https://127.0.1/", "the host is a loopback address"},
	{"https://0x7f.1/", "the host is a loopback address"},
	{"https://0x7f.0x0.0x0.0x1/", "the host is a loopback address"},
	{"https://0177.0.0.1/", "the host is a loopback address"},
	{"https://0177.1/", "the host is a loopback address"},
	{"https://0177.0x0.1/", "the host is a loopback address"},
	{"https://127.00000.00.001/", "the host is a loopback address"},
	{"https://0/", "the host is an unspecified address"},
	{"https://0./", "the host is an unspecified address"},
	{"https://00/", "the host is an unspecified address"},
	{"https://0x0/", "the host is an unspecified address"},
	{"https://0.0.0.0/", "the host is an unspecified address"},
	{"https://10.0.0.1/", "the host is a private address"},
	{"https://167772161/", "the host is a private address"},
	{"https://012.1/", "the host is a private address"},
	{"https://172.16.0.1/", "the host is a private address"},
	{"https://192.168.1.1/", "the host is a private address"},
	{"https://192.168.257/", "the host is a private address"},
	{"https://100.64.0.1/", "the host is a shared address"},
	{"https://169.254.169.254/latest/meta-data/",
	"the host is a cloud metadata address"},
	{"https://2852039166/", "the host is a cloud metadata address"},
	{"https://0xa9fea9fe/", "the host is a cloud metadata address"},
	{"https://0251.0376.0251.0376/", "the host is a cloud metadata address"},
	{"https://168.63.129.16/", "the host is a cloud metadata address"},
	{"https://169.254.1.1/", "the host is a link-local address"},
	{"https://255.255.255.255/", "the host is a broadcast address"},
	{"https://4294967295/", "the host is a broadcast address"},
	{"https://224.0.0.1/", "the host is a multicast address"},
	{"https://0x8080808/",
	"the host is an IPv4 address in an unusual notation"},
	{"https://134744072/",
	"the host is an IPv4 address in an unusual notation"},
	{"https://010.8.8.8/",
	"the host is an IPv4 address in an unusual notation"},
	{"https://8.8.2056/",
	"the host is an IPv4 address in an unusual notation"},
	{"https://8.8.8.8./",
	"the host is an IPv4 address in an unusual notation"},
	{"https://256.0.0.1/", "the host is not a valid IPv4 address"},
	{"https://1.2.3.4.5/", "the host is not a valid IPv4 address"},
	{"https://127.0.0.1.1/", "the host is not a valid IPv4 address"},
	{"https://4294967296/", "the host is not a valid IPv4 address"},
	{"https://6425673729/", "the host is not a valid IPv4 address"},
	{"https://0x17f000001/", "the host is not a valid IPv4 address"},
	{"https://0x/", "the host is not a valid IPv4 address"},
	{"https://127.0.0.0x/", "the host is not a valid IPv4 address"},
	{"https://127.0.0.08/", "the host is not a valid IPv4 address"},
	{"https://127..1/", "the host is not valid"},
	{"https://example.123/", "the host is not a valid IPv4 address"},
	{"https://example.0x7f/", "the host is not a valid IPv4 address"},

	/* IPv6 addresses */
	{"https://[::1]/", "the host is a loopback address"},
	{"https://[::1]:8443/", "the host is a loopback address"},
	{"https://[0:0:0:0:0:0:0:1]/", "the host is a loopback address"},
	{"https://[0000::0001]/", "the host is a loopback address"},
	{"https://[::]/", "the host is an unspecified address"},
	{"https://[::ffff:127.0.0.1]/", "the host is a loopback address"},
	{"https://[::FFFF:7f00:1]/", "the host is a loopback address"},
	{"https://[0:0:0:0:0:ffff:10.0.0.1]/", "the host is a private address"},
	{"https://[::ffff:169.254.169.254]/",
	"the host is a cloud metadata address"},
	{"https://[::127.0.0.1]/", "the host is a loopback address"},
	{"https://[::8.8.8.8]/", "the host is an IPv4-compatible address"},
	{"https://[::ffff:0:127.0.0.1]/", "the host is a loopback address"},
	{"https://[64:ff9b::127.0.0.1]/", "the host is a loopback address"},
	{"https://[64:ff9b::a9fe:a9fe]/", "the host is a cloud metadata address"},
	{"https://[64:ff9b::8.8.8.8]/", "the host is a NAT64 address"},
	{"https://[64:ff9b:1::a00:1]/", "the host is a NAT64 address"},
	{"https://[2002:7f00:1::]/", "the host is a loopback address"},
	{"https://[2002:a00:1::1]/", "the host is a private address"},
	{"https://[2002:808:808::1]/", "the host is a 6to4 address"},
	{"https://[2001:0:808:808::80ff:fffe]/",
	"the host is a loopback address"},
	{"https://[2001:0:808:808::f7f7:f7f7]/", "the host is a Teredo address"},
	{"https://[fe80::1]/", "the host is a link-local address"},
	{"https://[fd00:ec2::254]/", "the host is a cloud metadata address"},
	{"https://[fd12:3456::1]/", "the host is a private address"},
	{"https://[ff02::1]/", "the host is a multicast address"},
	{"https://[2001:db8::1]/", "the host is a documentation address"},
	{"https://[fe80::1%eth0]/", "the host is not a valid IPv6 address"},
	{"https://[fe80::1%25eth0]/", "the host is not a valid IPv6 address"},
	{"https://[2606:4700::1111%251]/",
	"the host is not a valid IPv6 address"},
	{"https://[v1.fe80]/", "the host is not a valid IPv6 address"},
	{"https://[]/", "the host is not a valid IPv6 address"},
	{"https://[:]/", "the host is not a valid IPv6 address"},
	{"https://[", "the host is not a valid IPv6 address"},
	{"https://[::1", "the host is not a valid IPv6 address"},
	{"https://[127.0.0.1]/", "the host is not a valid IPv6 address"},
	{"https://[example.com]/", "the host is not a valid IPv6 address"},
	{"https://[::ffff:127.1]/", "the host is not a valid IPv6 address"},
	{"https://[::ffff:0177.0.0.1]/", "the host is not a valid IPv6 address"},
	{"https://[1:2:3:4:5:6:7:8:9]/", "the host is not a valid IPv6 address"},
	{"https://[[::1]]/", "the host is not a valid IPv6 address"},
	{"https://[0000:0000:0000:0000:0000:0000:0000:0000:0001]/",
	"the host is not a valid IPv6 address"},
	{"https://[0000:0000:0000:0000:0000:ffff:123.123.123.1234]/",
	"the host is not a valid IPv6 address"},	/* one too long */
	{"https://[2606:4700::1111]evil.com/", "the host is not valid"},
	{"https://[2606:4700::1111].evil.com:443/", "the host is not valid"},
	{"https://[2606:4700::1111]:/",
	"the port is not a number from 1 to 65535"},
	{"https://::1/", "the URL has no host"},
	{"https://fe80::1/", "the port is not a number from 1 to 65535"},
	{"https://2606:4700::1111/", "the host is an unspecified address"},
};

typedef struct AllowedUrl
{
	const char *url;
	const char *host;
	uint16_t	port;
	bool		literal;
} AllowedUrl;

/* Allowed by the policy that sets nothing; https all of them. */
static const AllowedUrl allowed_urls[] = {
	{"https://example.com", "example.com", 443, false},
	{"https://example.com/", "example.com", 443, false},
	{"https://example.com?x=1", "example.com", 443, false},
	{"https://example.com:443/", "example.com", 443, false},
	{"https://example.com:8443/hook", "example.com", 8443, false},
	{"https://example.com:65535/", "example.com", 65535, false},
	{"https://example.com:80/", "example.com", 80, false},
	{"https://example.com:3000/", "example.com", 3000, false},
	{"https://example.com:8080/", "example.com", 8080, false},
	{"https://example.com:9000/", "example.com", 9000, false},
	{"HTTPS://Example.COM/Path", "example.com", 443, false},
	{"https://example.com./", "example.com", 443, false},
	{"https://example.com.:8443/", "example.com", 8443, false},
	{"https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXX",
	"hooks.slack.com", 443, false},
	{"https://hooks.slack.com/services/{{path}}",
	"hooks.slack.com", 443, false},
	{"https://discord.com/api/webhooks/1234567890/aB_c-D?wait=true",
	"discord.com", 443, false},
	{"https://discord.com/api/webhooks/{{id}}/{{token}}?wait=true",
	"discord.com", 443, false},
	{"https://api.hubapi.com/crm/objects/2026-03/contacts/batch/upsert",
	"api.hubapi.com", 443, false},
	{"https://acme.my.salesforce.com/services/data/v68.0/query?q=SELECT+Id",
	"acme.my.salesforce.com", 443, false},
	{"https://acme.zendesk.com/api/v2/search.json?query=type:ticket",
	"acme.zendesk.com", 443, false},
	{"https://events.pagerduty.com/v2/enqueue",
	"events.pagerduty.com", 443, false},
	{"https://outlook.office.com/webhook/a@b/IncomingWebhook/c",
	"outlook.office.com", 443, false},
	{"https://prod-12.westeurope.logic.azure.com:443/workflows/x?sp=%2Frun",
	"prod-12.westeurope.logic.azure.com", 443, false},
	{"https://example.com/a/../b/./c", "example.com", 443, false},
	{"https://example.com//double//slash", "example.com", 443, false},
	{"https://example.com/?u=https://user@127.0.0.1:22/",
	"example.com", 443, false},
	{"https://example.com/[1]{2}|3^4~5!6'7(8)*9", "example.com", 443, false},
	{"https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443, false},
	{"https://xn--j6w193g.xn--p1ai/", "xn--j6w193g.xn--p1ai", 443, false},
	{"https://a_b.example.com/", "a_b.example.com", 443, false},
	{"https://a-b.c--d.example.com/", "a-b.c--d.example.com", 443, false},
	{"https://1.example.com/", "1.example.com", 443, false},
	{"https://127.0.0.1.example.com/", "127.0.0.1.example.com", 443, false},
	{"https://0x7f.example/", "0x7f.example", 443, false},
	{"https://0xfg/", "0xfg", 443, false},
	{"https://1e3/", "1e3", 443, false},
	{"https://1xf/", "1xf", 443, false},
	{"https://0ab/", "0ab", 443, false},
	{"https://AZ09.example/", "az09.example", 443, false},
	{"https://3com.com/", "3com.com", 443, false},
	{"https://hooks/", "hooks", 443, false},
	{"https://notlocalhost/", "notlocalhost", 443, false},
	{"https://localhost.example.com/", "localhost.example.com", 443, false},
	{"https://8.8.8.8/", "8.8.8.8", 443, true},
	{"https://1.1.1.1:8443/hook", "1.1.1.1", 8443, true},
	{"https://172.15.255.255/", "172.15.255.255", 443, true},
	{"https://172.32.0.1/", "172.32.0.1", 443, true},
	{"https://192.169.0.1/", "192.169.0.1", 443, true},
	{"https://223.255.255.255/", "223.255.255.255", 443, true},
	{"https://[2606:4700:4700::1111]/", "2606:4700:4700::1111", 443, true},
	{"https://[2606:4700:4700:0:0:0:0:1111]:8443/",
	"2606:4700:4700::1111", 8443, true},
	{"https://[2A00:1450:4001:80B::200E]?x",
	"2a00:1450:4001:80b::200e", 443, true},
	{"https://[::ffff:8.8.8.8]/", "::ffff:8.8.8.8", 443, true},
	{"https://[::ffff:808:808]/", "::ffff:8.8.8.8", 443, true},
	{"https://[0000:0000:0000:0000:0000:ffff:123.123.123.123]/",
	"::ffff:123.123.123.123", 443, true},
};

/*
 * The ends of every range, so that none is too short.  An IPv4 address is
 * tried in its mapped form as well.
 */
static const RefusedCase hostile_addresses[] = {
	{"0.0.0.0", "unspecified address"},
	{"0.255.255.255", "unspecified address"},
	{"10.0.0.0", "private address"},
	{"10.255.255.255", "private address"},
	{"100.64.0.0", "shared address"},
	{"100.100.100.200", "cloud metadata address"},
	{"100.127.255.255", "shared address"},
	{"127.0.0.0", "loopback address"},
	{"127.255.255.255", "loopback address"},
	{"168.63.129.16", "cloud metadata address"},
	{"169.254.0.0", "link-local address"},
	{"169.254.42.42", "cloud metadata address"},
	{"169.254.169.254", "cloud metadata address"},
	{"169.254.170.2", "cloud metadata address"},
	{"169.254.170.23", "cloud metadata address"},
	{"169.254.255.255", "link-local address"},
	{"172.16.0.0", "private address"},
	{"172.31.255.255", "private address"},
	{"192.0.0.0", "protocol assignment address"},
	{"192.0.0.192", "cloud metadata address"},
	{"192.0.0.255", "protocol assignment address"},
	{"192.0.2.0", "documentation address"},
	{"192.0.2.255", "documentation address"},
	{"192.88.99.0", "6to4 address"},
	{"192.88.99.255", "6to4 address"},
	{"192.168.0.0", "private address"},
	{"192.168.255.255", "private address"},
	{"198.18.0.0", "benchmarking address"},
	{"198.19.255.255", "benchmarking address"},
	{"198.51.100.0", "documentation address"},
	{"198.51.100.255", "documentation address"},
	{"203.0.113.0", "documentation address"},
	{"203.0.113.255", "documentation address"},
	{"224.0.0.0", "multicast address"},
	{"239.255.255.255", "multicast address"},
	{"240.0.0.0", "reserved address"},
	{"255.255.255.254", "reserved address"},
	{"255.255.255.255", "broadcast address"},

	{"::", "unspecified address"},
	{"::1", "loopback address"},
	{"::2", "unspecified address"}, /* carries 0.0.0.2 */
	{"::10.0.0.1", "private address"},
	{"::1.1.1.1", "IPv4-compatible address"},
	{"::200.1.1.1", "IPv4-compatible address"},
	{"::ffff:0:10.0.0.1", "private address"},
	{"::ffff:0:1.1.1.1", "IPv4-translated address"},
	{"::ffff:0:200.1.1.1", "IPv4-translated address"},
	{"::1:0:0:0", "reserved address"},
	{"64:ff9b::10.0.0.1", "private address"},
	{"64:ff9b::1.1.1.1", "NAT64 address"},
	{"64:ff9b::200.1.1.1", "NAT64 address"},
	{"64:ff9b:1::", "NAT64 address"},
	{"64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "NAT64 address"},
	{"100::", "discard address"},
	{"100::ffff:ffff:ffff:ffff", "discard address"},
	{"100:0:0:1::", "reserved address"},
	{"1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved address"},
	{"2001::", "broadcast address"},	/* carries 255.255.255.255 */
	{"2001:0:1:1:1:1:f5ff:fffe", "private address"},
	{"2001:0:ffff:ffff:ffff:ffff:fefe:fefe", "Teredo address"},
	{"2001:1::1", "protocol assignment address"},
	{"2001:2::", "benchmarking address"},
	{"2001:2:0:ffff:ffff:ffff:ffff:ffff", "benchmarking address"},
	{"2001:10::1", "protocol assignment address"},	/* ORCHID */
	{"2001:20::1", "protocol assignment address"},	/* ORCHIDv2 */
	{"2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "protocol assignment address"},
	{"2001:db8::", "documentation address"},
	{"2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "documentation address"},
	{"2002::", "unspecified address"},	/* carries 0.0.0.0 */
	{"2002:c0a8:1::1", "private address"},
	{"2002:101:101::1", "6to4 address"},
	{"2002:c801:101::1", "6to4 address"},
	{"2a00:1450::5efe:10.0.0.1", "private address"},
	{"2a00:1450::200:5efe:8.8.8.8", "ISATAP address"},
	{"3fff::", "documentation address"},
	{"3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "documentation address"},
	{"4000::", "reserved address"},
	{"5f00::1", "reserved address"},
	{"7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved address"},
	{"8000::", "reserved address"},
	{"fbff:ffff::", "reserved address"},
	{"fc00::", "private address"},
	{"fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "private address"},
	{"fd00:ec2::254", "cloud metadata address"},
	{"fd00:ec2::23", "cloud metadata address"},
	{"fd20:ce::254", "cloud metadata address"},
	{"fd00:42::42", "cloud metadata address"},
	{"fe00::", "reserved address"},
	{"fe80::", "link-local address"},
	{"fe80::a9fe:a9fe", "cloud metadata address"},
	{"febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link-local address"},
	{"fec0::", "private address"},
	{"feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "private address"},
	{"ff00::", "multicast address"},
	{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast address"},
};

/* Public addresses: the neighbours of every range, so that none is too long. */
static const char *const allowed_addresses[] = {
	"1.0.0.0",
	"1.1.1.1",
	"8.8.8.8",
	"9.255.255.255",
	"11.0.0.0",
	"100.63.255.255",
	"100.128.0.0",
	"126.255.255.255",
	"128.0.0.0",
	"168.63.129.15",
	"168.63.129.17",
	"169.253.255.255",
	"169.255.0.0",
	"172.15.255.255",
	"172.32.0.0",
	"191.255.255.255",
	"192.0.1.0",
	"192.0.1.255",
	"192.0.3.0",
	"192.88.98.255",
	"192.88.100.0",
	"192.167.255.255",
	"192.169.0.0",
	"198.17.255.255",
	"198.20.0.0",
	"198.51.99.255",
	"198.51.101.0",
	"203.0.112.255",
	"203.0.114.0",
	"223.255.255.255",

	"2000::",
	"2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	"2001:200::",
	"2001:4860:4860::8888",
	"2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
	"2001:db9::",
	"2003::",
	"2606:4700:4700::1111",
	"2a00:1450:4001:80b::200e",
	"2a00:1450::5eff:a00:1",
	"2a00:1450:0:0:400:5efe:a00:1",
	"3fff:1000::",
	"3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
};

/*
 * The text as the name of a check: quoted, and without what would mean
 * something to a reader of TAP.
 */
static const char *
quoted(const char *text)
{
	static char buffer[512];
	size_t		n = 0;

	buffer[n++] = '"';
	for (; *text != '\0' && n < sizeof(buffer) - 6; text++)
	{
		unsigned char c = (unsigned char) *text;

		if (c < 0x20 || c >= 0x7f || c == '#' || c == '\\')
			n += (size_t) sprintf(buffer + n, "\\x%02x", c);
		else
			buffer[n++] = (char) c;
	}
	buffer[n++] = '"';
	buffer[n] = '\0';
	return buffer;
}

/* Check an address given as text. */
static const char *
check_address(const CwhTargetPolicy *policy, const char *text)
{
	struct sockaddr_storage storage = {.ss_family = AF_INET};
	struct sockaddr *address = (struct sockaddr *) &storage;

	if (inet_pton(AF_INET, text, &((struct sockaddr_in *) address)->sin_addr) == 1)
		return cwh_target_check_address(policy, address);
	storage.ss_family = AF_INET6;
	if (inet_pton(AF_INET6, text, &((struct sockaddr_in6 *) address)->sin6_addr) == 1)
		return cwh_target_check_address(policy, address);
	return "no address at all";
}

/* Check a URL, forgetting the target. */
static const char *
check_url(const CwhTargetPolicy *policy, const char *url)
{
	CwhTarget	target;

	return cwh_target_check_url(policy, url, strlen(url), &target);
}

/* Nothing that is refused gets by, and each with its own reason. */
static void
test_hostile_urls(void)
{
	for (size_t i = 0; i < lengthof(hostile_urls); i++)
	{
		const RefusedCase *row = &hostile_urls[i];

		is_str(check_url(&plain, row->text), row->reason,
			   quoted(row->text));
		ok(check_url(&strict, row->text) != NULL,
		   "%s without http", quoted(row->text));
	}
}

/* What people use passes, and is understood. */
static void
test_allowed_urls(void)
{
	for (size_t i = 0; i < lengthof(allowed_urls); i++)
	{
		const AllowedUrl *row = &allowed_urls[i];
		CwhTarget	target;

		is_str(cwh_target_check_url(&strict, row->url, strlen(row->url),
									&target), NULL, quoted(row->url));
		is_str(target.host, row->host, "its host");
		is_int(target.port, row->port, "its port");
		ok(target.https, "its scheme");
		ok(target.literal == row->literal, "whether it is an address");
	}
}

/* http is refused unless it is allowed. */
static void
test_http(void)
{
	CwhTarget	target;
	const char *url = "http://example.com/";

	is_str(check_url(&strict, url), "the scheme is not https", url);
	is_str(check_url(&strict, "ftp://example.com/"), "the scheme is not https",
		   "another scheme");
	is_str(cwh_target_check_url(&plain, url, strlen(url), &target), NULL,
		   "http where it is allowed");
	ok(!target.https, "its scheme");
	is_int(target.port, 80, "its port");
	url = "HTTP://example.com:8080";
	is_str(cwh_target_check_url(&plain, url, strlen(url), &target), NULL, url);
	is_int(target.port, 8080, "its port");
}

/* Lengths: of the URL, of the host and its labels; and what strlen() hides. */
static void
test_lengths(void)
{
	char		url[CWH_MAX_URL_LEN + 64];
	char		host[CWH_MAX_HOST_LEN + 8];
	CwhTarget	target;
	int			len;

	memset(url, 'a', sizeof(url));
	memcpy(url, "https://example.com/", 20);
	is_str(cwh_target_check_url(&strict, url, CWH_MAX_URL_LEN, &target), NULL,
		   "the longest URL");
	is_str(cwh_target_check_url(&strict, url, CWH_MAX_URL_LEN + 1, &target),
		   "the URL is too long", "a longer one");

	memset(host, 'a', sizeof(host));
	host[63] = host[127] = host[191] = '.';
	len = snprintf(url, sizeof(url), "https://%.253s/", host);
	is_str(cwh_target_check_url(&strict, url, (size_t) len, &target), NULL,
		   "the longest host");
	is_int((long long) strlen(target.host), 253, "all of it");
	len = snprintf(url, sizeof(url), "https://%.253s./", host);
	is_str(cwh_target_check_url(&strict, url, (size_t) len, &target), NULL,
		   "the longest host with a trailing dot");
	len = snprintf(url, sizeof(url), "https://%.254s/", host);
	is_str(cwh_target_check_url(&strict, url, (size_t) len, &target),
		   "the host is too long", "a longer one");
	host[63] = 'a';
	len = snprintf(url, sizeof(url), "https://%.64s/", host);
	is_str(cwh_target_check_url(&strict, url, (size_t) len, &target),
		   "the host is not valid", "a label of 64 characters");

	is_str(cwh_target_check_url(&strict, "https://example.com\0.evil.com/", 30,
								&target),
		   "the URL contains a control character", "a NUL in the host");
	is_str(cwh_target_check_url(&strict, "\0", 1, &target),
		   "the URL contains a control character", "a NUL alone");
	is_str(cwh_target_check_url(&strict, "https://example.com/#x", 20,
								&target),
		   NULL, "what follows the end is not read");
	is_str(cwh_target_check_url(&strict, "https://[2606:4700::1]", 21,
								&target),
		   "the host is not a valid IPv6 address", "not even a bracket");
}

/* Every range, at both ends and just outside. */
static void
test_addresses(void)
{
	char		text[INET6_ADDRSTRLEN + 8];

	for (size_t i = 0; i < lengthof(hostile_addresses); i++)
	{
		const RefusedCase *row = &hostile_addresses[i];

		is_str(check_address(&strict, row->text), row->reason, row->text);
		if (strchr(row->text, ':') == NULL)
		{
			snprintf(text, sizeof(text), "::ffff:%s", row->text);
			is_str(check_address(&strict, text), row->reason, text);
		}
	}
	for (size_t i = 0; i < lengthof(allowed_addresses); i++)
	{
		const char *address = allowed_addresses[i];

		is_str(check_address(&strict, address), NULL, address);
		if (strchr(address, ':') == NULL)
		{
			snprintf(text, sizeof(text), "::ffff:%s", address);
			is_str(check_address(&strict, text), NULL, text);
		}
	}
}

/* What is not an IP address is not connected to. */
static void
test_families(void)
{
	struct sockaddr_storage address = {0};

	address.ss_family = AF_UNIX;
	is_str(cwh_target_check_address(&strict, (struct sockaddr *) &address),
		   "unix socket", "AF_UNIX");
	address.ss_family = AF_UNSPEC;
	is_str(cwh_target_check_address(&strict, (struct sockaddr *) &address),
		   "address of an unknown family", "AF_UNSPEC");
	address.ss_family = 250;
	is_str(cwh_target_check_address(&strict, (struct sockaddr *) &address),
		   "address of an unknown family", "a family that does not exist");
}

/* Set up a policy with these networks.  The arrays live until the next call. */
static CwhTargetPolicy
policy_with(const char *allowed, const char *denied)
{
	static CwhNetwork networks[2][8];
	CwhTargetPolicy policy = {0};
	const char *problem;

	policy.allowed = networks[0];
	policy.nallowed = cwh_target_parse_networks(allowed, networks[0], 8,
												&problem);
	policy.denied = networks[1];
	policy.ndenied = cwh_target_parse_networks(denied, networks[1], 8,
											   &problem);
	return policy;
}

/* The administrator's networks. */
static void
test_networks_of_policy(void)
{
	CwhTargetPolicy policy;

	policy = policy_with("10.1.0.0/16", "");
	is_str(check_address(&policy, "10.1.2.3"), NULL, "an allowed network");
	is_str(check_address(&policy, "::ffff:10.1.2.3"), NULL,
		   "the same, mapped");
	is_str(check_address(&policy, "10.2.0.0"), "private address",
		   "outside of it");
	is_str(check_url(&policy, "https://10.1.2.3/"), NULL, "in a URL");
	is_str(check_url(&policy, "https://[::ffff:10.1.2.3]/"), NULL,
		   "in a URL, mapped");
	is_str(check_url(&policy, "https://10.66051/"),
		   "the host is an IPv4 address in an unusual notation",
		   "in a URL, unusual");
	is_str(check_url(&policy, "https://10.2.0.1/"),
		   "the host is a private address", "outside of it, in a URL");
	is_str(check_address(&policy, "2002:a01:203::1"), "6to4 address",
		   "carried by an address that is not allowed");
	is_str(check_url(&policy, "https://10.1.2.3:5432/"),
		   "the port is not allowed", "an allowed network opens no port");
	is_str(check_url(&policy, "https://localhost/"),
		   "the host is a name of this machine", "nor localhost");

	policy = policy_with("10.1.0.0/16:8443, fd00::/8:443, 127.0.0.1/32:8080", "");
	is_str(check_url(&policy, "https://10.1.2.3:8443/"), NULL,
		   "a network that is allowed for a port");
	is_str(check_url(&policy, "https://[::ffff:10.1.2.3]:8443/"), NULL,
		   "the same, mapped");
	is_str(check_url(&policy, "https://10.1.2.3/"),
		   "the host is a private address", "not for another");
	is_str(check_url(&policy, "https://10.1.2.3:84430/"),
		   "the host is a private address", "nor for what is none");
	is_str(check_url(&policy, "https://[fd00::1]/"), NULL,
		   "the default port");
	is_str(check_url(&policy, "https://[fd00::1]:8443/"),
		   "the host is a private address", "and not another");
	is_str(check_url(&policy, "https://localhost:8080/"), NULL, "localhost");
	is_str(check_url(&policy, "https://localhost/"),
		   "the host is a name of this machine", "and not another port of it");
	is_str(check_address(&policy, "10.1.2.3"), "private address",
		   "an address with another port");
	policy = policy_with("10.1.0.0/16", "10.1.0.0/16:443");
	is_str(check_url(&policy, "https://10.1.2.3:8443/"), NULL,
		   "a network that is denied for another port");
	is_str(check_url(&policy, "https://10.1.2.3/"),
		   "the host is an address in a denied network", "and for this one");

	policy = policy_with("::ffff:10.1.0.0/112", "");
	is_str(check_address(&policy, "10.1.2.3"), NULL,
		   "a mapped network is an IPv4 network");

	policy = policy_with("::ffff:0.0.0.0/96", "");
	is_str(check_address(&policy, "10.1.2.3"), NULL, "all of them, mapped");
	is_str(check_address(&policy, "fe80::1"), "link-local address",
		   "which does not open IPv6");

	policy = policy_with("127.0.0.0/8", "");
	is_str(check_url(&policy, "https://localhost/"), NULL,
		   "localhost where IPv4's loopback is allowed");
	is_str(check_url(&policy, "https://a.localhost./"), NULL,
		   "and below localhost");
	is_str(check_address(&policy, "::1"), "loopback address",
		   "IPv6's loopback stays refused");
	policy = policy_with("::1", "");
	is_str(check_url(&policy, "https://localhost/"), NULL,
		   "localhost where IPv6's loopback is allowed");
	is_str(check_url(&policy, "https://[::1]/"), NULL, "and its address");
	is_str(check_address(&policy, "127.0.0.1"), "loopback address",
		   "IPv4's loopback stays refused");
	policy = policy_with("127.0.0.0/8, ::1", "127.0.0.1, ::1");
	is_str(check_url(&policy, "https://localhost/"),
		   "the host is a name of this machine", "localhost denied again");

	policy = policy_with("10.0.0.0/8", "10.1.0.0/16 8.8.8.8 2606:4700::/32");
	is_str(check_address(&policy, "10.2.0.1"), NULL, "allowed");
	is_str(check_address(&policy, "10.1.0.1"), "address in a denied network",
		   "denied wins over allowed");
	is_str(check_address(&policy, "8.8.8.8"), "address in a denied network",
		   "denied though public");
	is_str(check_address(&policy, "::ffff:8.8.8.8"),
		   "address in a denied network", "the same, mapped");
	is_str(check_url(&policy, "https://8.8.8.8/"),
		   "the host is an address in a denied network", "in a URL");
	is_str(check_address(&policy, "2606:4700::1"),
		   "address in a denied network", "an IPv6 network denied");
	is_str(check_address(&policy, "8.8.4.4"), NULL, "another public address");

	policy = policy_with("64:ff9b::/96", "9.9.9.9");
	is_str(check_address(&policy, "64:ff9b::8.8.8.8"), NULL,
		   "a public address behind an allowed NAT64");
	is_str(check_address(&policy, "64:ff9b::10.0.0.1"), "private address",
		   "a private one behind it");
	is_str(check_address(&policy, "64:ff9b::9.9.9.9"),
		   "address in a denied network", "a denied one behind it");
	policy = policy_with("64:ff9b::/96 10.0.0.0/8", "");
	is_str(check_address(&policy, "64:ff9b::10.0.0.1"), NULL,
		   "a private one behind it, allowed as well");

	policy = policy_with("::/0", "");
	is_str(check_address(&policy, "fe80::1"), NULL, "all of IPv6 allowed");
	is_str(check_address(&policy, "127.0.0.1"), "loopback address",
		   "which does not open IPv4");
	is_str(check_address(&policy, "::ffff:127.0.0.1"), "loopback address",
		   "nor mapped");
	is_str(check_address(&policy, "2002:7f00:1::"), "loopback address",
		   "nor carried");
	policy = policy_with("::/0 0.0.0.0/0", "");
	is_str(check_address(&policy, "255.255.255.255"), NULL, "all allowed");
	is_str(check_address(&policy, "2002:7f00:1::"), NULL, "in all forms");
	policy = policy_with("::/0 0.0.0.0/0", "::/0 0.0.0.0/0");
	is_str(check_address(&policy, "8.8.8.8"), "address in a denied network",
		   "all denied");
}

/* The administrator's ports. */
static void
test_ports_of_policy(void)
{
	uint16_t	ports[] = {443, 5432};
	CwhTargetPolicy policy = {.allow_http = true, .ports = ports, .nports = 2};

	is_str(check_url(&policy, "https://example.com/"), NULL, "443 by default");
	is_str(check_url(&policy, "https://example.com:5432/"), NULL,
		   "a port that is dangerous, but listed");
	is_str(check_url(&policy, "http://example.com:443/"), NULL,
		   "http to a listed port");
	is_str(check_url(&policy, "https://example.com:8443/"),
		   "the port is not allowed", "a port that is not listed");
	is_str(check_url(&policy, "http://example.com/"),
		   "the port is not allowed", "80 by default, not listed");
}

typedef struct ListCase
{
	const char *list;
	int			count;
	const char *problem;
} ListCase;

/* Lists of networks, at most 4 of them. */
static const ListCase network_lists[] = {
	{"", 0, NULL},
	{" \t\r\n,, ", 0, NULL},
	{"10.0.0.0/8", 1, NULL},
	{"10.0.0.0/8,192.168.0.0/16", 2, NULL},
	{"10.0.0.0/8 192.168.0.0/16", 2, NULL},
	{" 10.0.0.0/8 ,\n192.168.0.0/16,", 2, NULL},
	{"127.0.0.1", 1, NULL},
	{"127.0.0.1/32", 1, NULL},
	{"0.0.0.0/0", 1, NULL},
	{"0.0.0.0/32", 1, NULL},
	{"128.0.0.0/1", 1, NULL},
	{"::1", 1, NULL},
	{"::/0", 1, NULL},
	{"fd00::/8, FE80::/10, ::1/128, 2001:DB8::/33", 4, NULL},
	{"::ffff:10.0.0.0/104", 1, NULL},
	{"0000:0000:0000:0000:0000:ffff:123.123.123.123", 1, NULL},
	{"1.1.1.1 2.2.2.2 3.3.3.3 4.4.4.4 5.5.5.5", -1,
	"there are too many networks"},
	{"10.0.0.1/8", -1, "a network has bits set to the right of its prefix"},
	{"0.0.0.1/0", -1, "a network has bits set to the right of its prefix"},
	{"192.168.1.0/23", -1,
	"a network has bits set to the right of its prefix"},
	{"fe80::/8", -1, "a network has bits set to the right of its prefix"},
	{"10.0.0.0/33", -1, "the prefix length of a network is not valid"},
	{"::/129", -1, "the prefix length of a network is not valid"},
	{"10.0.0.0/", -1, "the prefix length of a network is not valid"},
	{"10.0.0.0/08", -1, "the prefix length of a network is not valid"},
	{"10.0.0.0/-1", -1, "the prefix length of a network is not valid"},
	{"10.0.0.0/+8", -1, "the prefix length of a network is not valid"},
	{"10.0.0.0/8:443 fd00::/8:1 ::1/128:65535", 3, NULL},
	{"10.0.0.0/8:0", -1, "the port of a network is not a number from 1 to 65535"},
	{"10.0.0.0/8:65536", -1, "the port of a network is not a number from 1 to 65535"},
	{"10.0.0.0/8:", -1, "the port of a network is not a number from 1 to 65535"},
	{"10.0.0.0/8:443:80", -1, "the port of a network is not a number from 1 to 65535"},
	{"10.0.0.0/:443", -1, "the prefix length of a network is not valid"},
	{"10.0.0.0:443", -1, "a network is neither an IP address nor one in CIDR notation"},
	{"10.0.0.0/8/8", -1, "the prefix length of a network is not valid"},
	{"10.0.0.0/99999999999999999999", -1,
	"the prefix length of a network is not valid"},
	{"10.0.0.0/255.0.0.0", -1, "the prefix length of a network is not valid"},
	{"10/8", -1,
	"a network is neither an IP address nor one in CIDR notation"},
	{"/8", -1, "a network is neither an IP address nor one in CIDR notation"},
	{"10.0.0.0 /8", -1,
	"a network is neither an IP address nor one in CIDR notation"},
	{"010.0.0.0/8", -1,
	"a network is neither an IP address nor one in CIDR notation"},
	{"0x7f.0.0.1", -1,
	"a network is neither an IP address nor one in CIDR notation"},
	{"example.com", -1,
	"a network is neither an IP address nor one in CIDR notation"},
	{"[::1]", -1,
	"a network is neither an IP address nor one in CIDR notation"},
	{"fe80::1%eth0", -1,
	"a network is neither an IP address nor one in CIDR notation"},
	{"10.0.0.0/8;::1", -1, "the prefix length of a network is not valid"},
	{"0000:0000:0000:0000:0000:ffff:123.123.123.1234", -1,
	"a network is neither an IP address nor one in CIDR notation"},
};

/* Lists of ports, at most 4 of them. */
static const ListCase port_lists[] = {
	{"", 0, NULL},
	{" , ", 0, NULL},
	{"443", 1, NULL},
	{"1,65535", 2, NULL},
	{"443, 8443\t80", 3, NULL},
	{"1 2 3 4 5", -1, "there are too many ports"},
	{"0", -1, "a port is not a number from 1 to 65535"},
	{"65536", -1, "a port is not a number from 1 to 65535"},
	{"4294967739", -1, "a port is not a number from 1 to 65535"},
	{"0443", -1, "a port is not a number from 1 to 65535"},
	{"-443", -1, "a port is not a number from 1 to 65535"},
	{"+443", -1, "a port is not a number from 1 to 65535"},
	{"443-445", -1, "a port is not a number from 1 to 65535"},
	{"https", -1, "a port is not a number from 1 to 65535"},
	{"443;80", -1, "a port is not a number from 1 to 65535"},
};

/* How the settings' lists are read. */
static void
test_lists(void)
{
	CwhNetwork	networks[4];
	uint16_t	ports[4];
	const char *problem;

	for (size_t i = 0; i < lengthof(network_lists); i++)
	{
		const ListCase *row = &network_lists[i];

		is_int(cwh_target_parse_networks(row->list, networks, 4, &problem),
			   row->count, quoted(row->list));
		is_str(problem, row->problem, "its problem");
	}

	cwh_target_parse_networks("10.0.0.0/8 2001:db8::/33 ::ffff:10.0.0.0/104",
							  networks, 4, &problem);
	is_int(networks[0].family, AF_INET, "family of an IPv4 network");
	is_int(networks[0].bits, 8, "its bits");
	is_int(networks[0].address[0], 10, "its address");
	is_int(networks[1].family, AF_INET6, "family of an IPv6 network");
	is_int(networks[1].bits, 33, "its bits");
	is_int(networks[1].address[3], 0xb8, "its address");
	ok(memcmp(&networks[0], &networks[2], sizeof(CwhNetwork)) == 0,
	   "a mapped network becomes an IPv4 network");

	for (size_t i = 0; i < lengthof(port_lists); i++)
	{
		const ListCase *row = &port_lists[i];

		is_int(cwh_target_parse_ports(row->list, ports, 4, &problem),
			   row->count, quoted(row->list));
		is_str(problem, row->problem, "its problem");
	}

	cwh_target_parse_ports("443, 8443", ports, 4, &problem);
	is_int(ports[0], 443, "first port");
	is_int(ports[1], 8443, "second port");
}

int
main(void)
{
	test_hostile_urls();
	test_allowed_urls();
	test_http();
	test_lengths();
	test_addresses();
	test_families();
	test_networks_of_policy();
	test_ports_of_policy();
	test_lists();
	return done_testing();
}
