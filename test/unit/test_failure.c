/*
 * test_failure.c
 *		The words for each code of libcurl's, in each phase of a transfer.
 *
 * Only here can every code be had, and libcurl's messages as all its versions
 * word them.  Which code a failure has with the installed version is for the
 * tests with a receiver to show.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "../../src/failure.c"

#include <errno.h>
#include <stdlib.h>

#include "tap.h"

#define lengthof(array)	(sizeof(array) / sizeof((array)[0]))

/* A failure of which only the code and the phase are known. */
static CwhFailure
failure_of(int code, CwhPhase phase)
{
	CwhFailure	failure = {
		.code = code,
		.phase = phase,
		.detail = "",
	};

	return failure;
}

/* Describe a failure, in memory of just its size. */
static const char *
describe_failure(CwhFailure failure)
{
	static char text[256];
	size_t		detail_size = strlen(failure.detail) + 1;
	char	   *detail = malloc(detail_size);
	char	   *out = malloc(sizeof(text));

	memcpy(detail, failure.detail, detail_size);
	failure.detail = detail;
	memset(out, 'x', sizeof(text));
	cwh_describe_failure(&failure, out, sizeof(text));
	memcpy(text, out, sizeof(text));
	if (strlen(text) >= sizeof(text) || strlen(detail) + 1 != detail_size)
		ok(false, "the text fits, and the message is left as it is");
	free(detail);
	free(out);
	return text;
}

/* Check the words for a code, in each phase. */
static void
check_everywhere(int code, const char *want, const char *name)
{
	int			wrong = 0;

	for (int phase = CWH_PHASE_LOOKUP; phase <= CWH_PHASE_BODY; phase++)
		wrong += strcmp(describe_failure(failure_of(code, (CwhPhase) phase)),
						want) != 0;
	is_int(wrong, 0, name);
}

/* Where a transfer may run out of time. */
static void
test_timeouts(void)
{
	static const char *const want[] = {
		[CWH_PHASE_LOOKUP] = "timed out while looking up the host's name",
		[CWH_PHASE_CONNECT] = "timed out while connecting",
		[CWH_PHASE_HANDSHAKE] = "timed out in the TLS handshake",
		[CWH_PHASE_SENT] = "timed out while waiting for the reply",
		[CWH_PHASE_HEADERS] = "timed out while reading the reply's headers",
		[CWH_PHASE_BODY] = "timed out while reading the reply's body"
	};

	for (size_t i = 0; i < lengthof(want); i++)
		is_str(describe_failure(failure_of(CURLE_OPERATION_TIMEDOUT,
										   (CwhPhase) i)), want[i], want[i]);
}

/* Codes that always have the same words. */
static void
test_constant(void)
{
	static const struct
	{
		int			code;
		const char *want;
	}			codes[] = {
		{CURLE_COULDNT_RESOLVE_HOST, "could not look up the host's name"},
		{CURLE_COULDNT_RESOLVE_PROXY, "could not look up the proxy's name"},
		{CURLE_COULDNT_CONNECT, "could not connect"},
		{CURLE_PEER_FAILED_VERIFICATION,
		"the server's certificate is for another host"},
		{CURLE_SSL_CONNECT_ERROR, "the TLS handshake failed"},
		{CURLE_SSL_CERTPROBLEM,
		"the webhook's client certificate or key is unusable"},
		{CURLE_SSL_CACERT_BADFILE,
			"the system has no certificate authorities: install them, or set "
		"chatwebhook.ca_file"},
		{CURLE_GOT_NOTHING, "the connection was closed without a reply"},
		{CURLE_RECV_ERROR, "the connection was lost while reading the reply"},
		{CURLE_SEND_ERROR, "the connection was lost while sending"},
		{CURLE_HTTP2_STREAM, "the server ended the HTTP/2 stream"},
		{CURLE_UNSUPPORTED_PROTOCOL, "the reply is not HTTP"},
		{CURLE_WEIRD_SERVER_REPLY, "the reply is not HTTP"},
	};

	for (size_t i = 0; i < lengthof(codes); i++)
		check_everywhere(codes[i].code, codes[i].want, codes[i].want);
}

/* Codes whose words depend on one more fact. */
static void
test_facts(void)
{
	CwhFailure	failure;
	char		want[256];

	for (int phase = CWH_PHASE_LOOKUP; phase <= CWH_PHASE_BODY; phase++)
		is_str(describe_failure(failure_of(CURLE_PARTIAL_FILE,
										   (CwhPhase) phase)),
			   phase < CWH_PHASE_HEADERS ?
			   "the connection was closed without a reply" :
			   "the connection was closed within the reply",
			   "part of a reply");

	failure = failure_of(CURLE_COULDNT_CONNECT, CWH_PHASE_CONNECT);
	failure.os_errno = ECONNREFUSED;
	is_str(describe_failure(failure), "could not connect: Connection refused",
		   "a refused connection");
	failure.os_errno = EHOSTUNREACH;
	is_str(describe_failure(failure), "could not connect: No route to host",
		   "a host that is not to be reached");

	failure = failure_of(CURLE_SSL_CACERT_BADFILE, CWH_PHASE_HANDSHAKE);
	failure.has_ca_file = true;
	is_str(describe_failure(failure), "could not read chatwebhook.ca_file",
		   "a file of certificate authorities");

	failure = failure_of(CURLE_PEER_FAILED_VERIFICATION, CWH_PHASE_HANDSHAKE);
	failure.verify_result = X509_V_ERR_UNSPECIFIED;
	is_str(describe_failure(failure),
		   "the server's certificate is for another host",
		   "no result of OpenSSL's");
	for (long result = 2; result < 80; result++)
	{
		failure.verify_result = result;
		snprintf(want, sizeof(want),
				 "could not verify the server's certificate: %s",
				 X509_verify_cert_error_string(result));
		if (strcmp(describe_failure(failure), want) != 0)
			is_str(describe_failure(failure), want, "a result of OpenSSL's");
	}
	failure.verify_result = X509_V_ERR_CERT_HAS_EXPIRED;
	is_str(describe_failure(failure),
		   "could not verify the server's certificate: certificate has expired",
		   "an expired certificate");
	failure.verify_result = X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT;
	ok(strstr(describe_failure(failure), "self"), "a self-signed one");
}

/* A key that is not its certificate's, which later versions tell otherwise. */
static void
test_client_certificate(void)
{
	CwhFailure	failure = failure_of(CURLE_BAD_FUNCTION_ARGUMENT,
									 CWH_PHASE_HANDSHAKE);
	char		own[256];

	strcpy(own, curl_easy_strerror(CURLE_BAD_FUNCTION_ARGUMENT));
	own[0] = (char) tolower((unsigned char) own[0]);
	is_str(describe_failure(failure), own, "a bad argument");
	failure.has_client_certificate = true;
	is_str(describe_failure(failure),
		   "the webhook's client certificate or key is unusable",
		   "with a client certificate, its key");
	failure.code = CURLE_SSL_CERTPROBLEM;
	is_str(describe_failure(failure),
		   "the webhook's client certificate or key is unusable",
		   "as earlier versions say");
	failure.code = CURLE_GOT_NOTHING;
	is_str(describe_failure(failure),
		   "the connection was closed without a reply",
		   "another failure is not the certificate's");
}

/* A header that is too large for libcurl. */
static void
test_too_large(void)
{
#if LIBCURL_VERSION_NUM >= 0x080600
	const int	code = CURLE_TOO_LARGE;
#else
	const int	code = CURLE_OUT_OF_MEMORY;
#endif
	char		own[256];

	strcpy(own, curl_easy_strerror((CURLcode) code));
	own[0] = (char) tolower((unsigned char) own[0]);
	for (int phase = CWH_PHASE_LOOKUP; phase <= CWH_PHASE_BODY; phase++)
		is_str(describe_failure(failure_of(code, (CwhPhase) phase)),
			   phase == CWH_PHASE_HEADERS ?
			   "the reply's headers are too large" : own,
			   "too large, or out of memory");
	is_str(describe_failure(failure_of(CURLE_GOT_NOTHING, CWH_PHASE_HEADERS)),
		   "the connection was closed without a reply",
		   "headers are not always the trouble");
}

/* What OpenSSL has put into libcurl's message. */
static void
test_tls_reason(void)
{
	static const struct
	{
		const char *detail;
		const char *reason;		/* null: none */
	}			details[] = {
		{"", NULL},
		{"OpenSSL SSL_connect: Connection reset by peer in connection to a:443",
		NULL},
		/* libcurl 7.88 with OpenSSL 3.0 */
		{"OpenSSL/3.0.19: error:0A000410:SSL routines::sslv3 alert handshake failure",
		"sslv3 alert handshake failure"},
		{"error:0A00045C:SSL routines::tlsv13 alert certificate required",
		"tlsv13 alert certificate required"},
		/* with OpenSSL 1.1.1 */
		{"error:14094410:SSL routines:ssl3_read_bytes:sslv3 alert handshake failure",
		"sslv3 alert handshake failure"},
		/* with an errno */
		{"OpenSSL SSL_read: error:0A000126:SSL routines::unexpected eof while reading, errno 0",
		"unexpected eof while reading"},
		{"SSL routines::a, errno 1, errno 2", "a"},
		{"errno 5, error:0A000126:SSL routines::b", "b"},
		/* cut short */
		{"error:0A000410:SSL routines", NULL},
		{"error:0A000410:SSL routines:", NULL},
		{"error:0A000410:SSL routines:ssl3_read_bytes", NULL},
		{"error:0A000410:SSL routines::", NULL},
		{"error:0A000410:SSL routines::x", "x"},
	};
	static const struct
	{
		int			code;
		const char *with;
		const char *without;
	}			codes[] = {
		{CURLE_SSL_CONNECT_ERROR, "the TLS handshake failed: ",
		"the TLS handshake failed"},
		{CURLE_RECV_ERROR, "the server ended the TLS connection: ",
		"the connection was lost while reading the reply"},
		{CURLE_SEND_ERROR, "the server ended the TLS connection: ",
		"the connection was lost while sending"},
	};

	for (size_t c = 0; c < lengthof(codes); c++)
		for (size_t i = 0; i < lengthof(details); i++)
		{
			CwhFailure	failure = failure_of(codes[c].code,
											 CWH_PHASE_HANDSHAKE);
			char		want[256];

			failure.detail = details[i].detail;
			snprintf(want, sizeof(want), "%s%s",
					 details[i].reason ? codes[c].with : codes[c].without,
					 details[i].reason ? details[i].reason : "");
			is_str(describe_failure(failure), want, want);
		}
}

/* How a server has ended a stream of HTTP/2. */
static void
test_stream_error(void)
{
	static const struct
	{
		const char *detail;
		const char *want;
	}			details[] = {
		{"", "the server ended the HTTP/2 stream"},
		{"Stream error in the HTTP/2 framing layer",
		"the server ended the HTTP/2 stream"},
		{"HTTP/2 stream 1 was not closed cleanly: INTERNAL_ERROR (err 2)",
		"the server ended the HTTP/2 stream: INTERNAL_ERROR"},
		{"HTTP/2 stream 1 was not closed cleanly: REFUSED_STREAM",
		"the server ended the HTTP/2 stream: REFUSED_STREAM"},
		{"HTTP/2 stream 3 reset by server (error 0x2 INTERNAL_ERROR)",
		"the server ended the HTTP/2 stream: INTERNAL_ERROR"},
		{"HTTP/2 stream 3 reset by server (error 0x7 REFUSED_STREAM",
		"the server ended the HTTP/2 stream: REFUSED_STREAM"},
		{"HTTP/2 stream 3 reset by server (error 0x2)",
		"the server ended the HTTP/2 stream"},
		{"HTTP/2 stream 3 reset by server (error ",
		"the server ended the HTTP/2 stream"},
	};

	for (size_t i = 0; i < lengthof(details); i++)
	{
		CwhFailure	failure = failure_of(CURLE_HTTP2_STREAM, CWH_PHASE_SENT);

		failure.detail = details[i].detail;
		is_str(describe_failure(failure), details[i].want, details[i].want);
	}
}

/* All other codes have libcurl's words. */
static void
test_others(void)
{
	static const int named[] = {
		CURLE_OPERATION_TIMEDOUT, CURLE_COULDNT_RESOLVE_HOST,
		CURLE_COULDNT_RESOLVE_PROXY, CURLE_COULDNT_CONNECT,
		CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_CONNECT_ERROR,
		CURLE_SSL_CERTPROBLEM, CURLE_SSL_CACERT_BADFILE, CURLE_GOT_NOTHING,
		CURLE_PARTIAL_FILE, CURLE_RECV_ERROR, CURLE_SEND_ERROR,
		CURLE_HTTP2_STREAM, CURLE_UNSUPPORTED_PROTOCOL,
		CURLE_WEIRD_SERVER_REPLY
	};
	int			wrong = 0;
	int			n = 0;

	for (int code = 1; code < CURL_LAST + 5; code++)
	{
		char		want[256];
		bool		is_named = false;

		for (size_t i = 0; i < lengthof(named); i++)
			is_named = is_named || code == named[i];
		if (is_named)
			continue;
		strcpy(want, curl_easy_strerror((CURLcode) code));
		want[0] = (char) tolower((unsigned char) want[0]);
		n++;
		wrong += strcmp(describe_failure(failure_of(code, CWH_PHASE_SENT)),
						want) != 0;
	}
	ok(n > 60, "there are %d codes without words of ours", n);
	is_int(wrong, 0, "they have libcurl's, beginning in lower case");
}

/* A message as long as libcurl's can be, into less room than it needs. */
static void
test_room(void)
{
	static const int codes[] = {
		CURLE_SSL_CONNECT_ERROR, CURLE_RECV_ERROR, CURLE_HTTP2_STREAM,
		CURLE_COULDNT_CONNECT, CURLE_PEER_FAILED_VERIFICATION,
		CURLE_SSL_CACERT_BADFILE, CURLE_OPERATION_TIMEDOUT, CURLE_READ_ERROR
	};
	char		detail[CURL_ERROR_SIZE];
	int			wrong = 0;

	memset(detail, 'y', sizeof(detail));
	memcpy(detail, "closed cleanly: SSL routines::", 30);
	detail[sizeof(detail) - 1] = '\0';
	for (size_t i = 0; i < lengthof(codes); i++)
	{
		CwhFailure	failure = failure_of(codes[i], CWH_PHASE_BODY);
		char		whole[512];

		failure.detail = detail;
		failure.os_errno = ETIMEDOUT;
		failure.verify_result = X509_V_ERR_CERT_HAS_EXPIRED;
		cwh_describe_failure(&failure, whole, sizeof(whole));
		for (size_t size = 1; size <= 256; size++)
		{
			char	   *out = malloc(size);

			cwh_describe_failure(&failure, out, size);
			if (strlen(out) != (strlen(whole) < size ? strlen(whole) : size - 1) ||
				strncmp(out, whole, strlen(out)) != 0)
				wrong++;
			free(out);
		}
	}
	is_int(wrong, 0, "a text that does not fit is cut");
}

int
main(void)
{
	test_timeouts();
	test_constant();
	test_facts();
	test_client_certificate();
	test_too_large();
	test_tls_reason();
	test_stream_error();
	test_others();
	test_room();

	return done_testing();
}
