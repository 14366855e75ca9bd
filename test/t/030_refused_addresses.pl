# Addresses that the worker must not connect to, however they are written.
#
# Only this can show that the guard stands where the connections are made: a
# resolver whose answers the test writes points names inwards and changes its mind
# between two lookups, and a witness beside the server sees every connection that
# is begun, whether a program listens there or not.
#
# For that the test moves into a network of its own, where all addresses, public
# ones too, lead back to the same machine.  So a request that the guard lets
# through arrives, and so would one that it ought to have stopped.  Where a user
# may not make such a network, the tests of names are skipped, and listeners on the
# loopback addresses are the only witness.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

# The network: one device, to which every address leads; the resolver asks a
# server on 127.0.0.1; and whoever is in there may listen on port 53.
my $make_network;

BEGIN
{
	$make_network = <<'END';
set -e
ip link set lo up
ip route add local default dev lo
ip -6 route add local default dev lo
echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start
files=$(mktemp -d)
printf 'nameserver 127.0.0.1\noptions timeout:30 attempts:1\n' > "$files/resolv.conf"
echo 'hosts: files dns' > "$files/nsswitch.conf"
mount --bind "$files/resolv.conf" /etc/resolv.conf
mount --bind "$files/nsswitch.conf" /etc/nsswitch.conf
rm -r "$files"
if [ -n "$CHATWEBHOOK_WITNESS" ]; then
	"${PYTHON:-python3}" "$1" "$CHATWEBHOOK_WITNESS" </dev/null &
fi
user=$2 group=$3
shift 3
exec unshare -U --map-user="$user" --map-group="$group" -- "$@"
END
	my $program = "$FindBin::Bin/../lib/witness.py";
	my @start = (
		'unshare', '-U', '--map-root-user', '-m', '-n', '--',
		'sh', '-c', "$make_network", 'sh', $program, $> + 0, $) + 0);

	if (!defined $ENV{CHATWEBHOOK_WITNESS})
	{
		require File::Temp;
		$ENV{CHATWEBHOOK_WITNESS} = '';
		my @command = (@start, 'true');
		my $pid = fork // die "could not fork: $!";
		if ($pid == 0)
		{
			open STDOUT, '>', '/dev/null';
			open STDERR, '>', '/dev/null';
			exec @command or exit 1;
		}
		waitpid $pid, 0;
		if ($? == 0)
		{
			my (undef, $log) = File::Temp::tempfile('witnessXXXXXX', TMPDIR => 1);
			$ENV{CHATWEBHOOK_WITNESS} = $log;
			exec @start, $^X, (map { "-I$_" } @INC), $0, @ARGV
			  or die "could not execute \"$start[0]\": $!";
		}
	}
}

use Chatwebhook;
use IO::Socket::IP;
use IPC::Open3 qw(open3);
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Socket ();
use Test::More;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->utf8(0)->canonical->allow_nonref;
my $witness_log = $ENV{CHATWEBHOOK_WITNESS};
my $own_network = $witness_log ne '';
my $why_not = 'this user may not make a network of its own (unshare, ip)';
my $timeout = $PostgreSQL::Test::Utils::timeout_default;
# what a customer's webhook is told of a name
my $no_address =
  "could not resolve the host name, or it resolves to addresses that are not allowed";

END { unlink $witness_log if $own_network; }

#
# The names.  Each leads to one address that must not be connected to.
#
my %inward = (
	'loopback' => [ '127.0.0.1', 'loopback' ],
	'other-loopback' => [ '127.8.8.8', 'loopback' ],
	'zero' => [ '0.0.0.0', 'unspecified' ],
	'zero-net' => [ '0.1.2.3', 'unspecified' ],
	'ten' => [ '10.1.2.3', 'private' ],
	'oneseventwo-first' => [ '172.16.0.1', 'private' ],
	'oneseventwo-last' => [ '172.31.255.254', 'private' ],
	'onenintwo' => [ '192.168.1.1', 'private' ],
	'metadata' => [ '169.254.169.254', 'cloud metadata' ],
	'metadata-ecs' => [ '169.254.170.2', 'cloud metadata' ],
	'metadata-azure' => [ '168.63.129.16', 'cloud metadata' ],
	'metadata-alibaba' => [ '100.100.100.200', 'cloud metadata' ],
	'metadata-oracle' => [ '192.0.0.192', 'cloud metadata' ],
	'link-local' => [ '169.254.1.1', 'link-local' ],
	'shared' => [ '100.64.0.1', 'shared' ],
	'benchmarking' => [ '198.18.0.1', 'benchmarking' ],
	'documentation' => [ '192.0.2.1', 'documentation' ],
	'documentation-2' => [ '198.51.100.1', 'documentation' ],
	'documentation-3' => [ '203.0.113.1', 'documentation' ],
	'relay' => [ '192.88.99.1', '6to4' ],
	'multicast' => [ '224.0.0.1', 'multicast' ],
	'reserved' => [ '240.0.0.1', 'reserved' ],
	'broadcast' => [ '255.255.255.255', 'broadcast' ],
	'loopback6' => [ '::1', 'loopback' ],
	'zero6' => [ '::', 'unspecified' ],
	'mapped-loopback' => [ '::ffff:127.0.0.1', 'loopback' ],
	'mapped-metadata' => [ '::ffff:169.254.169.254', 'cloud metadata' ],
	'compatible' => [ '::127.0.0.1', 'loopback' ],
	'translated' => [ '::ffff:0:10.1.2.3', 'private' ],
	'nat64-loopback' => [ '64:ff9b::127.0.0.1', 'loopback' ],
	'nat64-public' => [ '64:ff9b::8.8.8.8', 'NAT64' ],
	'nat64-local' => [ '64:ff9b:1::10.1.2.3', 'NAT64' ],
	'six-to-four' => [ '2002:7f00:1::1', 'loopback' ],
	'six-to-four-public' => [ '2002:808:808::1', '6to4' ],
	'teredo' => [ '2001:0:808:808:0:0:80ff:fffe', 'loopback' ],
	'isatap' => [ '2606:4700::5efe:10.1.2.3', 'private' ],
	'metadata6' => [ 'fd00:ec2::254', 'cloud metadata' ],
	'unique-local' => [ 'fd12:3456::1', 'private' ],
	'site-local' => [ 'fec0::1', 'private' ],
	'link-local6' => [ 'fe80::1', 'link-local' ],
	'multicast6' => [ 'ff02::1', 'multicast' ],
	'documentation6' => [ '2001:db8::1', 'documentation' ],
	'discard' => [ '100::1', 'discard' ],
	'unassigned6' => [ '4000::1', 'reserved' ]);
# the kernel connects to none of these, whoever asks
my %unconnectable =
  map { $_ => 1 } qw(zero-net multicast broadcast link-local6 multicast6);

my ($public, $public2, $public6) =
  ('93.184.215.14', '8.8.8.8', '2606:4700:4700::1111');
my ($private, $private6) = ('10.66.66.66', 'fd66:6666::66');
my %names = (
	'public.test' => { A => [ [$public] ] },
	'public6.test' => { AAAA => [ [$public6] ] },
	'public2.test' => { A => [ [$public2] ] },
	# the answer changes
	'rebind.test' => { A => [ [$public], [$private] ] },
	'rebind6.test' => { A => [ [$public], [] ], AAAA => [ [], [$private6] ] },
	'rebind-worker.test' => { A => [ [$public], ['127.0.0.1'] ] },
	'alternating.test' =>
	  { A => [ [$private], [$public] ], alternate => JSON::PP::true },
	# several answers at once
	'mixed.test' => { A => [ [ $private, $public ] ] },
	'mixed6.test' => { A => [ [$public] ], AAAA => [ [ $private6, '::1' ] ] },
	'all-inward.test' => { A => [ [ $private, '127.0.0.1' ] ], AAAA => [ [$private6] ] },
	'alias.test' => { CNAME => 'inner.test' },
	'inner.test' => { A => [ [$private] ] },
	# for what settings allow
	'denied.test' => { A => [ ['10.9.9.9'] ] });
foreach my $name (keys %inward)
{
	my $address = $inward{$name}[0];
	$names{"$name.test"} = { ($address =~ /:/ ? 'AAAA' : 'A') => [ [$address] ] };
}

#
# The place.  In a network of our own the receivers listen on every address.
#
my $receiver = start_receiver(
	args => [ '--host' => $own_network ? '0.0.0.0' : '127.0.0.1' ]);
my $port = $receiver->port;
my $receiver6 = start_receiver(
	args => [ '--host' => $own_network ? '::' : '::1', '--port' => $port ]);
$Chatwebhook::last_receiver = $receiver;
my @listeners = map
{
	IO::Socket::IP->new(
		LocalHost => $_,
		LocalPort => 0,
		Listen => 10,
		Blocking => 0)
	  or die "could not listen on $_: $@";
} '127.0.0.1', '::1';
my ($listener_port, $listener_port6) = map { $_->sockport } @listeners;

my $directory = PostgreSQL::Test::Utils::tempdir('names');
my $dns_log = "$directory/dns.log";
my ($dns_pid, $dns_stdin);

if ($own_network)
{
	append_to_file("$directory/names.json", $json->encode(\%names));
	append_to_file($dns_log, '');
	open my $errors, '>', "$directory/dns.err" or die "could not open: $!";
	$dns_pid = open3($dns_stdin, my $stdout, '>&' . fileno($errors),
		$ENV{PYTHON} // 'python3', "$Chatwebhook::lib/dns.py",
		'--names' => "$directory/names.json",
		'--log' => $dns_log);
	my $line = <$stdout> // '';
	die 'the name server did not start: ' . slurp_file("$directory/dns.err")
	  if $line !~ /^listening/;
}

END
{
	my $exit_code = $?;
	if ($dns_pid)
	{
		kill 'TERM', $dns_pid;
		waitpid $dns_pid, 0;
	}
	$? = $exit_code;
}

# The environment names a proxy, as that of a service may.
my $proxy = '151.101.1.6';
$ENV{$_} = "http://$proxy:8118"
  foreach qw(http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY);
my $node = new_node(
	'main',
	'chatwebhook.allowed_networks' => '',
	'chatwebhook.log_attempts' => 'all');
delete @ENV{qw(http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY)};

# A Perl value as a literal of type jsonb.
sub jsonb
{
	my ($value) = @_;
	return "'" . ($json->encode($value) =~ s/'/''/gr) . "'::jsonb";
}

# Emit an event that every webhook gets, or only those of one chatbot.
sub emit
{
	my ($chatbot) = @_;
	$chatbot = defined $chatbot ? "'$chatbot'" : 'NULL';
	sql("SELECT chatwebhook.emit('message.sent', $chatbot, NULL,
			'{\"role\": \"bot\", \"content\": \"hello\"}')");
	return;
}

# A webhook for the events of the chatbot of the same name; its id.
sub webhook
{
	my ($name, $url, %columns) = @_;
	my ($id) = create_webhook(
		$node,
		name => $name,
		chatbot_id => $name,
		url => $url,
		max_retries => 0,
		%columns);
	return $id;
}

# Emit an event for a webhook alone, and wait until its delivery is finished.
sub deliver
{
	my ($name) = @_;
	emit($name);
	ok(wait_idle($node), "$name: the worker is done");
	return sql("SELECT status, attempts, last_error FROM chatwebhook.delivery
		WHERE webhook_name = '$name' ORDER BY id DESC LIMIT 1");
}

# What test_webhook() says, or the error that it ends with.
sub try_webhook
{
	my ($name) = @_;
	my ($status, $stdout, $stderr) = $node->psql('postgres',
		"SELECT success, error FROM chatwebhook.webhook w,
		 chatwebhook.test_webhook(w.id) WHERE name = '$name'");
	$stderr =~ s/^.*?ERROR:\s+//s;
	$stderr =~ s/\n.*//s;
	return $status == 0 ? $stdout : $stderr;
}

# Change a setting, so that it holds for new sessions, and for the worker some
# time soon; or for all, by a new start.
sub reload_with
{
	my (%settings) = @_;
	foreach my $name (sort keys %settings)
	{
		sql("ALTER SYSTEM SET chatwebhook.$name = '$settings{$name}'");
	}
	$node->reload;
	foreach my $name (sort keys %settings)
	{
		wait_until("SELECT current_setting('chatwebhook.$name') = '$settings{$name}'")
		  or die "$name has not changed";
	}
	return;
}

sub restart_with
{
	my (%settings) = @_;
	sql("ALTER SYSTEM SET chatwebhook.$_ = '$settings{$_}'") foreach sort keys %settings;
	$node->restart;
	wait_until('SELECT count(*) > 0 FROM chatwebhook.worker_status')
	  or die 'there is no worker';
	return;
}

# Who has been connected to since the last time: "ADDRESS PORT" for each, in the
# order of what the witness saw.  A connection of our own, made now, marks the end.
my $witnessed = 0;
my $marks = 0;

sub connections
{
	if (!$own_network)
	{
		my @seen;
		foreach my $listener (@listeners)
		{
			while (my $client = $listener->accept)
			{
				push @seen, join ' ', $client->sockhost, $client->sockport;
			}
		}
		foreach my $log ($receiver, $receiver6)
		{
			my @entries = $log->log;
			push @seen, ('localhost ' . $log->port) x (@entries - ($log->{seen} // 0));
			$log->{seen} = @entries;
		}
		return @seen;
	}
	my $mark = sprintf '198.51.100.77 %d', 20_000 + ++$marks;
	my ($address, $mark_port) = split / /, $mark;
	IO::Socket::IP->new(PeerHost => $address, PeerPort => $mark_port);
	my $deadline = time + $timeout;
	while (time < $deadline)
	{
		my @lines = split /\n/, slurp_file($witness_log);
		if (grep { $_ eq $mark } @lines)
		{
			my @new = @lines[ $witnessed .. $#lines ];
			$witnessed = @lines;
			return grep { $_ !~ /^(watching|udp 127\.0\.0\.1 53|198\.51\.100\.77 .*)$/ } @new;
		}
		sleep 0.01;
	}
	die "the witness has not seen $mark";
}

# Nobody has been connected to.
sub no_connections
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(join(', ', connections()), '', $what);
}

# An address as the witness writes it.
sub destination
{
	my ($address) = @_;
	my $family = $address =~ /:/ ? Socket::AF_INET6 : Socket::AF_INET;

	# nowhere in particular is this machine
	$address = { '0.0.0.0' => '127.0.0.1', '::' => '::1' }->{$address} // $address;
	$address =~ s/^::ffff:(?=[0-9.]+$)// and $family = Socket::AF_INET;
	return Socket::inet_ntop($family, Socket::inet_pton($family, $address));
}

# How often a name was looked up, with which answers.
sub look_ups
{
	my ($name, $type) = @_;
	return join ', ',
	  map { /^\Q$name $type\E(?: (.*))?$/ ? ($1 // '') : () } split /\n/,
	  slurp_file($dns_log);
}

#
# What must be refused, and why.  P stands for a port that somebody listens on.
#
my %reasons = (
	A => 'the URL is not absolute',
	B => 'the URL contains a backslash',
	C => 'the URL contains a control character',
	D => 'the host is a documentation address',
	E => 'the URL contains a character outside ASCII',
	F => 'the URL contains a fragment',
	G => 'the URL contains a space',
	H => 'the host is not valid',
	K => 'the host is a link-local address',
	L => 'the host is a loopback address',
	M => 'the host is a cloud metadata address',
	N => 'the host is a name of this machine',
	O => 'the URL has no host',
	P => 'the port is not allowed',
	Q => 'the port is not a number from 1 to 65535',
	R => 'the host is a private address',
	S => 'the scheme is not http or https',
	U => 'the URL contains a user name or password',
	V => 'the host is an IPv4 address in an unusual notation',
	W => 'the host is not a valid IPv6 address',
	X => 'the host is not a valid IPv4 address',
	Z => 'the host is an unspecified address');
my @hostile = (
	# this machine, in plain words
	[ L => 'http://127.0.0.1:P/' ],
	[ L => 'https://127.0.0.1:P/' ],
	[ L => 'http://127.0.0.1:P?query' ],
	[ L => 'HTTP://127.0.0.1:P/' ],
	[ L => 'http://127.255.255.254:P/' ],
	[ Z => 'http://0.0.0.0:P/' ],
	[ Z => 'http://0:P/' ],
	[ L => 'http://[::1]:P/' ],
	[ L => 'http://[0:0:0:0:0:0:0:1]:P/' ],
	[ L => 'http://[0000::0001]:P/' ],
	[ Z => 'http://[::]:P/' ],
	[ N => 'http://localhost:P/' ],
	[ N => 'http://LocalHost:P/' ],
	[ N => 'http://localhost.:P/' ],
	[ N => 'http://foo.localhost:P/' ],
	[ N => 'http://localhost.localdomain:P/' ],
	[ N => 'http://ip6-localhost:P/' ],
	[ N => 'http://ip6-loopback:P/' ],
	# numbers that stand for it
	[ L => 'http://2130706433:P/' ],
	[ L => 'http://017700000001:P/' ],
	[ L => 'http://0x7f000001:P/' ],
	[ L => 'http://0X7F000001:P/' ],
	[ L => 'http://0x7f.0x0.0x0.0x1:P/' ],
	[ L => 'http://0177.0.0.1:P/' ],
	[ L => 'http://0177.0.0.01:P/' ],
	[ L => 'http://00000177.0.0.1:P/' ],
	[ L => 'http://127.1:P/' ],
	[ L => 'http://127.0.1:P/' ],
	[ L => 'http://0x7f.1:P/' ],
	[ L => 'http://127.0.0.1.:P/' ],
	[ L => 'http://127.0x000001:P/' ],
	[ X => 'http://127.0.0.1..:P/', $reasons{H} ],
	[ X => 'http://4294967297:P/' ],
	[ X => 'http://340282366920938463463374607431768211457:P/' ],
	[ X => 'http://127.0.0.256:P/' ],
	[ X => 'http://127.0.0.08:P/' ],
	[ X => 'http://127.0.0.0.1:P/' ],
	[ V => 'http://8.8.2056:P/' ],
	[ V => 'http://0x08.8.8.8:P/' ],
	[ V => 'http://134744072:P/' ],
	# inside
	[ R => 'http://10.0.0.1:P/' ],
	[ R => 'http://0xa000001:P/' ],
	[ R => 'http://012.0.0.1:P/' ],
	[ R => 'http://172.16.0.1:P/' ],
	[ R => 'http://172.31.255.255:P/' ],
	[ R => 'http://192.168.0.1:P/' ],
	[ K => 'http://169.254.0.1:P/' ],
	[ '' => 'http://100.64.0.1:P/', 'the host is a shared address' ],
	[ '' => 'http://198.18.0.1:P/', 'the host is a benchmarking address' ],
	[ D => 'http://192.0.2.1:P/' ],
	[ D => 'http://198.51.100.1:P/' ],
	[ D => 'http://203.0.113.1:P/' ],
	[ '' => 'http://192.0.0.8:P/', 'the host is a protocol assignment address' ],
	[ '' => 'http://224.0.0.1:P/', 'the host is a multicast address' ],
	[ '' => 'http://240.0.0.1:P/', 'the host is a reserved address' ],
	[ '' => 'http://255.255.255.255:P/', 'the host is a broadcast address' ],
	# cloud metadata
	[ M => 'http://169.254.169.254/latest/meta-data/' ],
	[ M => 'https://169.254.169.254/' ],
	[ M => 'http://2852039166/' ],
	[ M => 'http://0xA9FEA9FE/' ],
	[ M => 'http://0251.0376.0251.0376/' ],
	[ M => 'http://169.16689662/' ],
	[ M => 'http://169.254.169.254./' ],
	[ M => 'http://169.254.170.2/v2/credentials' ],
	[ M => 'http://100.100.100.200/' ],
	[ M => 'http://168.63.129.16/' ],
	[ M => 'http://192.0.0.192/' ],
	[ M => 'http://[fd00:ec2::254]/' ],
	[ M => 'http://[fd20:ce::254]/' ],
	[ M => 'http://[::ffff:169.254.169.254]/' ],
	[ M => 'http://[::ffff:a9fe:a9fe]/' ],
	[ M => 'http://[64:ff9b::169.254.169.254]/' ],
	[ M => 'http://[2002:a9fe:a9fe::1]/' ],
	# IPv4 in IPv6
	[ L => 'http://[::ffff:127.0.0.1]:P/' ],
	[ L => 'http://[::ffff:7f00:1]:P/' ],
	[ L => 'http://[0:0:0:0:0:ffff:127.0.0.1]:P/' ],
	[ L => 'http://[::127.0.0.1]:P/' ],
	[ L => 'http://[::7f00:1]:P/' ],
	[ L => 'http://[64:ff9b::7f00:1]:P/' ],
	[ '' => 'http://[64:ff9b:1::7f00:1]:P/', 'the host is a NAT64 address' ],
	[ '' => 'http://[64:ff9b::8.8.8.8]:P/', 'the host is a NAT64 address' ],
	[ L => 'http://[2002:7f00:1::]:P/' ],
	[ '' => 'http://[2002:808:808::]:P/', 'the host is a 6to4 address' ],
	[ L => 'http://[2001:0:808:808:0:0:80ff:fffe]:P/' ],
	[ '' => 'http://[2001:0:808:808::f7f7:f7f7]:P/', 'the host is a Teredo address' ],
	[ R => 'http://[::ffff:0:10.0.0.1]:P/' ],
	[ R => 'http://[2606:4700::5efe:192.168.1.1]:P/' ],
	# IPv6
	[ R => 'http://[fd00::1]:P/' ],
	[ R => 'http://[fc00::1]:P/' ],
	[ R => 'http://[fec0::1]:P/' ],
	[ K => 'http://[fe80::1]:P/' ],
	[ W => 'http://[fe80::1%25lo]:P/' ],
	[ W => 'http://[::1%lo]:P/' ],
	[ W => 'http://[::1:P/' ],
	[ W => 'http://[127.0.0.1]:P/' ],
	[ W => 'http://[v1.::1]:P/' ],
	[ H => 'http://[::1]P/', 'the host is a loopback address' ],
	[ O => 'http://::1:P/' ],
	[ '' => 'http://[ff02::1]:P/', 'the host is a multicast address' ],
	[ D => 'http://[2001:db8::1]:P/' ],
	[ '' => 'http://[100::1]:P/', 'the host is a discard address' ],
	# who is the host?
	[ U => 'http://public.test@127.0.0.1:P/' ],
	[ U => 'http://user:password@public.test:P/' ],
	[ U => 'http://127.0.0.1:P@public.test/' ],
	[ U => 'http://public.test:80@127.0.0.1:P/' ],
	[ U => 'http://@127.0.0.1:P/' ],
	[ U => 'http://a@b@127.0.0.1:P/' ],
	[ F => 'http://127.0.0.1:P#@public.test/' ],
	[ F => 'http://public.test#@127.0.0.1:P/' ],
	[ B => 'http://127.0.0.1:P\@public.test/' ],
	[ B => 'http://public.test\@127.0.0.1:P/' ],
	[ B => 'http:\\\\127.0.0.1:P\\' ],
	[ B => 'http://127.0.0.1:P/\..' ],
	[ L => 'http://127.0.0.1:P?@public.test/' ],
	[ G => 'http://127.0.0.1:P /' ],
	[ G => ' http://127.0.0.1:P/' ],
	[ G => 'http://public.test &@127.0.0.1:P/' ],
	[ C => "http://127.0.0.1:P/\r\nHost: public.test" ],
	[ C => "http://127.0.0.1\t:P/" ],
	[ C => "http://127.0.0.1:P/\n" ],
	[ C => "http://public.test\x7f:P/" ],
	[ H => 'http://%6c%6f%63%61%6c%68%6f%73%74:P/' ],
	[ H => 'http://127.0.0.1%2f.public.test:P/' ],
	[ H => 'http://127%2e0%2e0%2e1:P/' ],
	[ H => 'http://127.0.0.1%00.public.test:P/' ],
	[ H => 'http://127.0.0.1,public.test:P/' ],
	[ H => 'http://{127.0.0.1,public.test}:P/' ],
	[ H => 'http://{{host}}:P/' ],
	[ H => 'http://.localhost:P/' ],
	[ H => 'http://public..test:P/' ],
	[ E => "http://\x{24db}ocalhost:P/" ],
	[ E => "http://127\x{3002}0\x{3002}0\x{3002}1:P/" ],
	[ E => "http://\x{ff11}27.0.0.1:P/" ],
	[ E => "http://public.test\x{2044}@127.0.0.1:P/" ],
	[ O => 'http:///127.0.0.1:P/' ],
	[ O => 'http://:P/' ],
	[ O => 'http://' ],
	[ O => 'http://.:P/' ],
	[ A => 'http:/127.0.0.1:P/' ],
	[ A => 'http:127.0.0.1:P/' ],
	[ A => '//127.0.0.1:P/' ],
	[ A => '127.0.0.1:P', $reasons{S} ],
	[ A => 'localhost:P', $reasons{S} ],
	[ A => '/latest/meta-data' ],
	[ A => '' ],
	# other languages than HTTP
	[ S => 'file:///etc/passwd' ],
	[ S => 'FILE://localhost/etc/passwd' ],
	[ S => 'gopher://127.0.0.1:P/_x' ],
	[ S => 'dict://127.0.0.1:P/x' ],
	[ S => 'ftp://127.0.0.1:P/' ],
	[ S => 'ldap://127.0.0.1:P/' ],
	[ S => 'smb://127.0.0.1/x' ],
	[ S => 'telnet://127.0.0.1:P/' ],
	[ S => 'ws://127.0.0.1:P/' ],
	[ S => 'unix:///var/run/docker.sock' ],
	[ S => 'http+unix://%2Fvar%2Frun%2Fdocker.sock/' ],
	[ S => 'jar:http://127.0.0.1:P/' ],
	[ S => 'data:text/plain,x' ],
	[ S => 'javascript:alert(1)' ],
	[ A => ':http://127.0.0.1:P/' ],
	# ports of what answers to others than us
	(map { [ P => "http://public.test:$_/" ] }
		  22, 25, 53, 110, 143, 445, 2375, 2379, 3306, 5432, 6379, 6443, 8500,
		9200, 11211, 27017),
	[ P => 'https://public.test:22/' ],
	[ Q => 'http://public.test:0/' ],
	[ Q => 'http://public.test:65616/' ],
	[ Q => 'http://public.test:4294967376/' ],
	[ Q => 'http://public.test:-80/' ],
	[ Q => 'http://public.test:+80/' ],
	[ Q => 'http://public.test:080/' ],
	[ Q => 'http://public.test:0x50/' ],
	[ Q => 'http://public.test:/' ],
	[ Q => 'http://public.test:80:P/' ],);
my $n = 0;
my @targets = map
{
	my ($key, $url, $reason) = @$_;
	my $loopback = $url =~ /\[/ ? $listener_port6 : $listener_port;
	# half of them to the receivers, half to the listeners
	my $where = ++$n % 2 ? $port : $loopback;
	$url =~ s/(?<![A-Za-z])P(?![A-Za-z])/$where/g;
	{ name => "target $n", url => $url, reason => $reason // $reasons{$key} };
} @hostile;
push @targets,
  { name => 'target too long', url => "http://public.test:$port/" . 'x' x 5000, reason => 'the URL is too long' };

# A URL that can be printed.
sub printable
{
	my ($url) = @_;
	$url = substr($url, 0, 60) . '...' if length $url > 70;
	return $url =~ s/([^ -~])/sprintf('\\x{%x}', ord $1)/ger;
}

subtest 'hostile URLs are refused when they are stored' => sub {
	cmp_ok(scalar @targets, '>=', 60, scalar(@targets) . ' targets');
	sql(q{CREATE FUNCTION store(name text, url text) RETURNS text LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO chatwebhook.webhook (name, url) VALUES (name, url);
			RETURN 'stored';
		EXCEPTION WHEN check_violation THEN
			RETURN SQLERRM;
		END $$});
	my $answers = $json->decode(sql('SELECT jsonb_object_agg(name, store(name, url)) FROM jsonb_to_recordset('
			  . jsonb(\@targets) . ') AS t(name text, url text)'));
	foreach my $target (@targets)
	{
		is( $answers->{ $target->{name} },
			"cannot deliver to the URL of webhook \"$target->{name}\": $target->{reason}",
			printable($target->{url}));
	}
	is(sql('SELECT count(*) FROM chatwebhook.webhook'), 0, 'none is stored');
	sql(q{INSERT INTO chatwebhook.webhook (name, url) VALUES ('fine', 'https://public.test/')});
	my (undef, undef, $error) = $node->psql('postgres',
		q{UPDATE chatwebhook.webhook SET url = 'https://10.0.0.1/' WHERE name = 'fine'});
	like($error, qr/the host is a private address/, 'a change of the URL is refused as well');
	sql('DELETE FROM chatwebhook.webhook');
	no_connections('nobody was connected to');
};

subtest 'hostile URLs that are in the table all the same are dead' => sub {
	# one has a placeholder for its host
	my $filled = "target " . (1 + (grep { $hostile[$_][1] =~ /\{\{/ } 0 .. $#hostile)[0]);

	# As a restore would bring them, which trusts what was dumped.  One gives
	# a new webhook no secret either, so they are there before, with another URL.
	my $targets = 'jsonb_to_recordset(' . jsonb(\@targets) . ') AS t(name text, url text)';
	script("INSERT INTO chatwebhook.webhook (name, url)
		SELECT name, 'https://public.test/' FROM $targets;
		SELECT chatwebhook.set_credential(id, 'host', '127.0.0.1')
			FROM chatwebhook.webhook WHERE name = '$filled';
		SET check_function_bodies = off;
		UPDATE chatwebhook.webhook w SET url = t.url FROM $targets WHERE w.name = t.name;");
	emit();
	ok(wait_idle($node), 'the worker is done');
	my $outcomes = $json->decode(sql(q{SELECT jsonb_object_agg(webhook_name,
		jsonb_build_object('status', status, 'attempts', attempts, 'error', last_error,
			'code', last_status_code)) FROM chatwebhook.delivery}));
	foreach my $target (@targets)
	{
		my $outcome = $outcomes->{ $target->{name} };
		my $reason = $target->{name} eq $filled ? $reasons{L} : $target->{reason};
		is( "$outcome->{status} after $outcome->{attempts}: $outcome->{error}",
			"dead after 1: $reason", printable($target->{url}));
		ok(!defined $outcome->{code}, 'without a status') if defined $outcome->{code};
	}
	is(sql('SELECT count(*) FROM chatwebhook.attempt'), scalar @targets,
		'each attempt is in the log');
	no_connections('nobody was connected to');

	my $answers = $json->decode(
		sql(q{SELECT jsonb_object_agg(w.name, t.success || ': ' || t.error)
			FROM chatwebhook.webhook w, chatwebhook.test_webhook(w.id) t}));
	my @sent = grep
	{
		my $reason = $_->{name} eq $filled ? $reasons{L} : $_->{reason};
		$answers->{ $_->{name} } ne "false: $reason"
	} @targets;
	is(join(', ', map { "$_->{url}: $answers->{ $_->{name} }" } @sent),
		'', 'test_webhook() refuses every one of them, for the same reason');
	no_connections('nobody was connected to');
	sql('DELETE FROM chatwebhook.webhook');
};

subtest 'a credential brings a forbidden URL in' => sub {
	my %brought = (
		'plain' => [ '{{url}}', "http://127.0.0.1:$port/", $reasons{L} ],
		'number' => [ '{{url}}', "http://2130706433:$port/", $reasons{L} ],
		'metadata' => [ '{{url}}', 'http://169.254.169.254/', $reasons{M} ],
		'mapped' => [ '{{url}}', "http://[::ffff:127.0.0.1]:$port/", $reasons{L} ],
		'scheme' => [ '{{url}}', 'file:///etc/passwd', $reasons{S} ],
		'user' => [ '{{url}}', "http://public.test\@127.0.0.1:$port/", $reasons{U} ],
		'port' => [ '{{url}}', 'http://public.test:6379/', $reasons{P} ],
		'no URL' => [ '{{url}}', 'nonsense', $reasons{A} ],
		'nested' => [ '{{url}}', 'http://{{url}}/', $reasons{H} ],
		'backslash' => [ 'http://public.test/{{url}}', '\@127.0.0.1', $reasons{B} ],
		'space' => [ 'http://public.test/{{url}}', 'a b', $reasons{G} ],
		'fragment' => [ 'http://public.test/?{{url}}', 'a#b', $reasons{F} ]);
	foreach my $name (sort keys %brought)
	{
		my ($url, $value) = @{ $brought{$name} };
		sql("SELECT chatwebhook.set_credential(w.id, 'url', '$value')
			 FROM chatwebhook.create_webhook('by credential, $name', '$url',
				chatbot_id => 'credential') AS w");
	}
	webhook('by credential, missing', '{{url}}', chatbot_id => 'credential');
	emit('credential');
	becomes_true(q{SELECT count(*) = 0 FROM chatwebhook.delivery
			   WHERE status = 'pending' AND webhook_name <> 'by credential, missing'},
		'the worker is done');
	foreach my $name (sort keys %brought)
	{
		my (undef, $value, $reason) = @{ $brought{$name} };
		is( sql("SELECT status, last_error FROM chatwebhook.delivery
				WHERE webhook_name = 'by credential, $name' AND event_type <> 'webhook.alert'"),
			"dead|$reason", "$name: the delivery is dead");
		is( try_webhook("by credential, $name"),
			"f|$reason",
			"$name: test_webhook() refuses");
	}
	becomes_true(q{SELECT problem = 'the credential "url" is not set' AND pending = 1
			    FROM chatwebhook.webhook_health WHERE name = 'by credential, missing'},
		'without the credential its event waits');
	no_connections('nobody was connected to');
	sql('DELETE FROM chatwebhook.webhook');
};

subtest 'public URLs pass' => sub {
	my @fine = (
		'https://example.com',
		'https://example.com/',
		'https://example.com?query',
		'https://example.com./hook',
		'https://EXAMPLE.com:8443/hook?a=b&c=%20',
		'https://hooks.slack.com/services/T000/B000/XXXX',
		'https://xn--nxasmq6b.example/',
		'https://under_score.example.com/',
		'https://1.example.com/',
		'https://127.0.0.1.nip.io/',
		'https://localhost.example.com/',
		'https://notlocalhost/',
		'https://example.com/http://127.0.0.1/',
		'https://example.com/@127.0.0.1/',
		'https://example.com/{{token}}?{{query}}',
		'https://1.1.1.1/',
		'https://8.8.8.8:8443/',
		'https://9.255.255.255/',
		'https://11.0.0.0/',
		'https://100.63.255.255/',
		'https://100.128.0.0/',
		'https://126.255.255.255/',
		'https://128.0.0.1/',
		'https://169.253.255.255/',
		'https://169.255.0.0/',
		'https://172.15.255.255/',
		'https://172.32.0.0/',
		'https://192.167.255.255/',
		'https://192.169.0.0/',
		'https://198.17.255.255/',
		'https://198.20.0.0/',
		'https://223.255.255.255/',
		'https://[2606:4700:4700::1111]/',
		'https://[2a00:1450:4001:81b::200e]:8443/x',
		'https://[::ffff:8.8.8.8]/',
		'https://[2001:4860:4860::8888]/',
		'http://example.com:8080/');
	is( sql('SELECT u, chatwebhook._url_problem(u) FROM jsonb_array_elements_text('
			  . jsonb(\@fine)
			  . ') AS u WHERE chatwebhook._url_problem(u) IS NOT NULL'),
		'', scalar(@fine) . ' URLs have no problem');
};

SKIP:
{
	skip $why_not, 1 if !$own_network;

	subtest 'public addresses are sent to' => sub {
		my %outward = (
			'literal' => "http://$public:$port/ok/-/literal",
			'literal6' => "http://[$public6]:$port/ok/-/literal6",
			'mapped' => "http://[::ffff:$public2]:$port/ok/-/mapped",
			'name' => "http://public.test:$port/ok/-/name",
			'name6' => "http://public6.test:$port/ok/-/name6",
			'with a dot' => "http://PUBLIC2.test.:$port/ok/-/dot");
		webhook($_, $outward{$_}, chatbot_id => 'outward') foreach sort keys %outward;
		emit('outward');
		ok(wait_idle($node), 'the worker is done');
		is( sql(q{SELECT webhook_name, last_error FROM chatwebhook.delivery
				WHERE chatbot_id = 'outward' AND status <> 'delivered'}),
			'', 'all are delivered');
		is($receiver->count + $receiver6->count, 6, 'and have arrived');
		is( join(', ', sort { $a cmp $b } connections()),
			join(', ', sort { $a cmp $b } ("$public $port") x 2,
				("$public6 $port") x 2, ("$public2 $port") x 2),
			'the witness has seen where to: not to the proxy of the environment');
		is(try_webhook('name'), 't|', 'test_webhook() sends as well');
		is(join(', ', connections()), "$public $port", 'which the witness has seen');
		sql('DELETE FROM chatwebhook.webhook');
	};

	subtest 'names that point inwards' => sub {
		# the administrator's, who is told which addresses they are
		webhook($_, "http://$_.test:$port/ok/-/$_", chatbot_id => undef)
		  foreach sort keys %inward;
		webhook('alias', "http://alias.test:$port/", chatbot_id => undef);
		webhook('tls', "https://loopback.test:$port/", chatbot_id => undef);
		webhook('all inward', "http://all-inward.test:$port/", chatbot_id => undef);
		webhook('dot', "http://LOOPBACK.test.:$port/", chatbot_id => undef);
		my %expected = map { $_ => $inward{$_}[1] } keys %inward;
		@expected{ 'alias', 'tls', 'all inward', 'dot' } =
		  ('private', 'loopback', 'private|loopback', 'loopback');
		emit('inward');
		ok(wait_idle($node), 'the worker is done');
		my $outcomes = $json->decode(sql(q{SELECT jsonb_object_agg(webhook_name,
			status || ' after ' || attempts || ': ' || last_error)
			FROM chatwebhook.delivery WHERE chatbot_id = 'inward'}));
		foreach my $name (sort keys %expected)
		{
			like($outcomes->{$name},
				qr/^dead after 1: address refused: (?:$expected{$name}) address$/,
				$inward{$name} ? "$name: $inward{$name}[0]" : $name);
		}
		my $answers = $json->decode(sql(q{SELECT jsonb_object_agg(name, t.error)
			FROM chatwebhook.webhook w, chatwebhook.test_webhook(w.id) t
			WHERE chatbot_id IS NULL}));
		is( join(', ', map { "$_: $answers->{$_}" }
				grep { $answers->{$_} !~ /^address refused: (?:$expected{$_}) address$/ }
				sort keys %expected),
			'', 'test_webhook() is refused, too');
		no_connections('nobody was connected to');
		sql('DELETE FROM chatwebhook.webhook');
	};

	subtest 'a customer cannot tell which names there are' => sub {
		my @names = ('ten', 'loopback', 'metadata', 'unique-local', 'alias', 'all-inward', 'no-such-name');
		webhook($_, "http://$_.test:$port/", chatbot_id => 'customer', max_retries => 1, backoff => '10 ms')
		  foreach @names;
		emit('customer');
		ok(wait_idle($node), 'the worker is done');
		is( sql(q{SELECT string_agg(DISTINCT status || ' after ' || attempts || ': ' || last_error, ', ')
				FROM chatwebhook.delivery WHERE chatbot_id = 'customer'}),
			"dead after 2: $no_address", 'each is tried as often, and fails with the same words');
		is( sql(q{SELECT string_agg(DISTINCT t.error, ', ')
				FROM chatwebhook.webhook w, chatwebhook.test_webhook(w.id) t}),
			$no_address, 'by test_webhook() as well');
		no_connections('nobody was connected to');
		sql('DELETE FROM chatwebhook.webhook');
	};

	subtest 'the answer changes between two look-ups' => sub {
		# The first look-up is test_webhook()'s, the second one the worker's.
		foreach (
			[ 'rebind', 'A', "$public, $private" ],
			[ 'rebind6', 'AAAA', ", $private6" ])
		{
			my ($name, $type, $answers) = @$_;
			webhook($name, "http://$name.test:$port/ok/-/$name");
			is(try_webhook($name), 't|', "$name: at first it is a public address");
			is(join(', ', connections()), "$public $port", 'which is connected to');
			is(deliver($name), "dead|1|$no_address", 'then an inner one');
			is(look_ups("$name.test", $type), $answers, 'the name was looked up twice');
			no_connections('which is not');
		}

		# Both are the worker's; a new one, since libcurl keeps answers for a while.
		webhook('rebind-worker', "http://rebind-worker.test:$port/close/-/worker");
		is(deliver('rebind-worker'), 'delivered|1|', 'the worker, at first');
		my $pid = sql('SELECT pid FROM chatwebhook.worker_status');
		sql("SELECT pg_terminate_backend($pid)");
		wait_until("SELECT count(*) = 1 FROM chatwebhook.worker_status WHERE pid <> $pid")
		  or die 'there is no new worker';
		is(deliver('rebind-worker'), "dead|1|$no_address", 'and later');
		is(look_ups('rebind-worker.test', 'A'),
			"$public, 127.0.0.1", 'the name was looked up twice');
		is(join(', ', connections()), "$public $port", 'only the first was connected to');

		webhook('alternating', "http://alternating.test:$port/ok/-/alternating");
		is( join(', ', map { try_webhook('alternating') } 1 .. 4),
			join(', ', ("f|$no_address", 't|') x 2),
			'an answer that alternates is judged each time');
		is(join(', ', connections()), "$public $port, $public $port", 'and never by an older one');
	};

	subtest 'several addresses for one name' => sub {
		webhook($_, "http://$_.test:$port/close/-/$_") foreach 'mixed', 'mixed6';
		foreach my $name ('mixed', 'mixed6')
		{
			is(deliver($name), 'delivered|1|', "$name: the public one is sent to");
			is(join(', ', connections()), "$public $port", 'the others are not connected to');
		}
		# 8444: nobody listens
		webhook('mixed down', 'http://mixed.test:8444/');
		is(deliver('mixed down'), 'dead|1|could not connect: Connection refused',
			'if the public one is down, that is what failed');
		is(join(', ', connections()), "$public 8444", 'nor then');
	};

	subtest 'redirects are not followed' => sub {
		my %location = (
			'metadata' => 'http://169.254.169.254/latest/meta-data/',
			'metadata, same method' => [ 307, "http://169.254.169.254:$port/" ],
			'permanent' => [ 308, "http://127.0.0.1:$port/" ],
			'see other' => [ 303, "http://loopback.test:$port/" ],
			'without scheme' => "//169.254.169.254:$port/",
			'file' => 'file:///etc/passwd',
			'public' => "http://$public2:$port/ok/-/followed");
		foreach my $name (sort keys %location)
		{
			my ($status, $to) =
			  ref $location{$name} ? @{ $location{$name} } : (302, $location{$name});
			webhook("redirect, $name",
				"http://$public:$port/redirect?status=$status&to=$to",
				chatbot_id => 'redirect');
		}
		emit('redirect');
		ok(wait_idle($node), 'the worker is done');
		is( sql(q{SELECT count(*), bool_and(status = 'dead' AND attempts = 1
				AND last_error ~ '^HTTP status 30[2378]$')
				FROM chatwebhook.delivery WHERE chatbot_id = 'redirect'}),
			keys(%location) . '|t', 'a redirect is a failure');
		is(try_webhook('redirect, metadata'), 'f|HTTP status 302', 'for test_webhook() as well');
		is(join(', ', grep { $_ ne "$public $port" } connections()),
			'', 'nobody but the receiver was connected to');
		is($receiver->count('followed'), 0, 'not even a public place');
		sql('DELETE FROM chatwebhook.webhook');
	};

	subtest 'chatwebhook.allowed_networks, denied_networks and allowed_ports' => sub {
		my $inner = $inward{ten}[0];
		restart_with(
			allowed_networks => '10.0.0.0/8, fd12:3456::/32',
			denied_networks => "10.9.0.0/16, $public2/32");
		webhook('allowed', "http://ten.test:$port/ok/-/allowed");
		webhook('allowed, literal', "http://$inner:$port/ok/-/allowed");
		webhook('allowed6', "http://unique-local.test:$port/ok/-/allowed");
		webhook('not allowed', "http://onenintwo.test:$port/");
		webhook('not allowed6', "http://metadata6.test:$port/");
		webhook('not allowed, carried', "http://isatap.test:$port/");
		webhook('denied', "http://denied.test:$port/");
		webhook('denied, public', "http://public2.test:$port/");
		my (undef, undef, $error) = $node->psql('postgres',
			"SELECT chatwebhook.create_webhook('x', 'http://10.9.9.9:$port/')");
		like($error, qr/the host is an address in a denied network/,
			'a denied address is refused at INSERT');
		connections();
		is(deliver('allowed'), 'delivered|1|', 'a network that is allowed is sent to');
		is(deliver('allowed, literal'), 'delivered|1|', 'by its address, too');
		is(deliver('allowed6'), 'delivered|1|', 'and in IPv6');
		is(deliver('not allowed'), "dead|1|$no_address", 'no other is');
		is(deliver('not allowed6'),
			"dead|1|$no_address", 'nor in IPv6');
		is(deliver('not allowed, carried'),
			"dead|1|$no_address", 'nor what carries one that is');
		is(deliver('denied'), "dead|1|$no_address",
			'a network that is denied within one that is allowed is not');
		is(deliver('denied, public'), "dead|1|$no_address",
			'nor a public one that is denied');
		is(try_webhook('denied, public'), "f|$no_address",
			'the same holds for test_webhook()');
		is(try_webhook('allowed'), 't|', 'as what is allowed does');
		is( join(', ', connections()),
			join(', ', "$inner $port", "$inner $port", "$inward{'unique-local'}[0] $port",
				"$inner $port"),
			'the witness agrees');

		restart_with(
			allowed_networks => '',
			denied_networks => '',
			allowed_ports => "443, $port");
		webhook('port', "http://public.test:$port/ok/-/port");
		(undef, undef, $error) = $node->psql('postgres',
			q{SELECT chatwebhook.create_webhook('x', 'http://public.test:8443/')});
		like($error, qr/the port is not allowed/, 'a port that is not listed is refused at INSERT');
		is(deliver('port'), 'delivered|1|', 'one that is listed is sent to');
		sql('DELETE FROM chatwebhook.webhook');
		restart_with(allowed_ports => '');
		connections();
	};

	subtest 'a reload applies to connections that are open' => sub {
		my %changes = (
			'denied_networks' =>
			  [ "$public/32", $no_address ],
			'allowed_ports' => [ '443', 'the port is not allowed' ],
			'allow_http' => [ 'off', 'the scheme is not https' ]);
		foreach my $setting (sort keys %changes)
		{
			my ($value, $reason) = @{ $changes{$setting} };
			webhook($setting, "http://public.test:$port/ok/-/$setting");
			is(deliver($setting), 'delivered|1|', "$setting: at first it is sent to") foreach 1 .. 20;
			# the first ones are kept apart from those of the webhook before
			my @requests = $receiver->log($setting);
			is($requests[-2]{connection}, $requests[-1]{connection}, 'on one connection');

			# The worker reads its settings in its own time.
			my $before = sql("SELECT current_setting('chatwebhook.$setting')");
			reload_with($setting => $value);
			my $deadline = time + $timeout;
			my $last;
			do
			{
				emit($setting);
				wait_idle($node);
				$last = sql("SELECT status, last_error FROM chatwebhook.delivery
					WHERE webhook_name = '$setting' ORDER BY id DESC LIMIT 1");
			} while ($last =~ /^delivered/ && time < $deadline);
			my $count = $receiver->count($setting);
			is($last, "dead|$reason", 'then no more');
			deliver($setting);
			is($receiver->count($setting), $count, 'nothing is sent any longer');
			like(try_webhook($setting), qr/\Q$reason\E$/, 'nor by test_webhook()');
			restart_with($setting => $before);
			is(deliver($setting), 'delivered|1|', 'and back again');
		}
		sql('DELETE FROM chatwebhook.webhook');
		connections();
	};

	# Nothing but the guard has stopped what was refused above: with it open, the
	# same names lead to where somebody answers, and the witness sees that.
	subtest 'without the guard they would be reached' => sub {
		restart_with(allowed_networks => '0.0.0.0/0, ::/0');
		webhook("open $_", "http://$_.test:$port/ok/-/$_", chatbot_id => 'open')
		  foreach sort keys %inward;
		emit('open');
		ok(wait_idle($node), 'the worker is done');
		my %seen = map { $_ => 1 } connections();
		my %delivered = map { $_ => 1 } split /\n/,
		  sql(q{SELECT substr(webhook_name, 6) FROM chatwebhook.delivery
			WHERE chatbot_id = 'open' AND status = 'delivered'});
		my @names = grep { !$unconnectable{$_} } sort keys %inward;
		is(join(', ', grep { !$delivered{$_} } @names),
			'', scalar(@names) . ' of ' . keys(%inward) . ' names are delivered to');
		my @unseen = grep { !$seen{ destination($inward{$_}[0]) . " $port" } } @names;
		is(join(', ', @unseen), '', 'and the witness has seen each of them');
	};
}

# A network that is allowed for one port is not open for another.
{
	my $other = start_receiver();
	restart_with(allowed_networks => '127.0.0.1/32:' . $other->port);
	create_webhook($node, name => 'this port', url => $other->url('/ok/-/this'), chatbot_id => 'ports');
	sql("SELECT chatwebhook.emit('webhook.test', 'ports', NULL, '{}')");
	ok($other->wait_for(1, 'this'), 'a network that is allowed for a port');
	my $url = $receiver->url('/ok/-/that');
	like(($node->psql('postgres', "SELECT chatwebhook.create_webhook('that port', '$url')"))[2],
		qr/the host is a loopback address/, 'is not open for others');
}

like(sql('SELECT count(*) FROM chatwebhook.worker_status'), qr/^1$/, 'there is one worker');
is(sql(q{SELECT coalesce(last_error, '') FROM chatwebhook.worker_status}),
	'', 'which has had no trouble of its own');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/,
	'no process has crashed');

$node->stop;
done_testing();
