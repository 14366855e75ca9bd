/*
 * failure.c
 *		Names what went wrong with a transfer, in words that a user can act on.
 *
 * libcurl's codes are coarse, and its messages differ from version to version;
 * so the words are ours, chosen by the code, by how far the transfer had come,
 * and by what OpenSSL or the server has put into libcurl's message.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <string.h>

#include <curl/curl.h>
#include <openssl/x509.h>

#include "chatwebhook.h"
#include "compat.h"

/* The phase in which a transfer ran out of time. */
static const char *
timed_out_phase(const CwhTransfer *transfer)
{
	curl_off_t	resolved = 0;
	curl_off_t	connected = 0;
	long		local_port = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_NAMELOOKUP_TIME_T, &resolved);
	curl_easy_getinfo(transfer->easy, CURLINFO_CONNECT_TIME_T, &connected);
	curl_easy_getinfo(transfer->easy, CURLINFO_LOCAL_PORT, &local_port);

	/* on a connection from the cache the first two stay 0 */
	if (transfer->must_wait)
		return "timed out while connecting";
	if (transfer->requests == transfer->earlier_requests)
	{
		if (resolved == 0)
			return "timed out while looking up the host's name";
		if (connected == 0 && local_port == 0)
			return "timed out while connecting";
		return "timed out in the TLS handshake";
	}
	switch (transfer->reply)
	{
		case CWH_REPLY_NONE:
			return "timed out while waiting for the reply";
		case CWH_REPLY_HEADERS:
			return "timed out while reading the reply's headers";
		default:
			return "timed out while reading the reply's body";
	}
}

/*
 * What OpenSSL says of a failure, such as "tlsv13 alert certificate required";
 * null if it says nothing.  It ends libcurl's message, behind the last colon, or
 * stands before ", errno".
 */
static const char *
tls_reason(CwhTransfer *transfer)
{
	static const char marker[] = "SSL routines:";
	char	   *reason = strstr(transfer->detail, marker);
	char	   *end;

	if (reason == NULL)
		return NULL;
	/* before OpenSSL 3.0 the function's name stands between the two colons */
	reason = strchr(reason + strlen(marker), ':');
	if (reason == NULL || *++reason == '\0')
		return NULL;
	end = strstr(reason, ", errno");
	if (end != NULL)
		*end = '\0';
	return reason;
}

/*
 * The name of the error with which a server has ended a stream of HTTP/2, such as
 * "INTERNAL_ERROR"; null if libcurl does not say.  Its words are "was not closed
 * cleanly: NAME (err NUMBER)", or in later versions "reset by server (error
 * NUMBER NAME)".
 */
static const char *
stream_error(CwhTransfer *transfer)
{
	static const char earlier[] = "closed cleanly: ";
	static const char later[] = "(error ";
	char	   *name = strstr(transfer->detail, earlier);

	if (name != NULL)
		name += strlen(earlier);
	else
	{
		name = strstr(transfer->detail, later);
		name = name ? strchr(name + strlen(later), ' ') : NULL;
		if (name == NULL)
			return NULL;
		name++;
	}
	name[strcspn(name, " )")] = '\0';
	return name;
}

/*
 * Name what went wrong, a CURLcode, unless a callback has done so.  Is there a
 * chatwebhook.ca_file?
 */
void
cwh_describe_failure(CwhTransfer *transfer, int code, bool has_ca_file)
{
	CURL	   *easy = transfer->easy;
	char	   *error = transfer->error;
	size_t		size = sizeof(transfer->error);
	long		verify = 0;
	long		os_errno = 0;
	const char *reason = tls_reason(transfer);

	if (error[0] != '\0')
		return;
	if (transfer->reply == CWH_REPLY_HEADERS && cwh_curl_is_too_large(code))
	{
		/* a single line is more than libcurl takes, which is more than we do */
		strlcpy(error, CWH_HEADERS_TOO_LARGE, size);
		return;
	}
	/* so newer versions say that a key is not that of a certificate */
	if (code == CURLE_BAD_FUNCTION_ARGUMENT && transfer->client_certificate)
		code = CURLE_SSL_CERTPROBLEM;
	switch ((CURLcode) code)
	{
		case CURLE_OPERATION_TIMEDOUT:
			strlcpy(error, timed_out_phase(transfer), size);
			break;
		case CURLE_COULDNT_RESOLVE_HOST:
			strlcpy(error, "could not look up the host's name", size);
			break;
		case CURLE_COULDNT_RESOLVE_PROXY:
			strlcpy(error, "could not look up the proxy's name", size);
			break;
		case CURLE_COULDNT_CONNECT:
			curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &os_errno);
			if (os_errno != 0)
				snprintf(error, size, "could not connect: %s",
						 strerror((int) os_errno));
			else
				strlcpy(error, "could not connect", size);
			break;
		case CURLE_PEER_FAILED_VERIFICATION:
			/* without a result, the chain was not what libcurl disliked */
			curl_easy_getinfo(easy, CURLINFO_SSL_VERIFYRESULT, &verify);
			if (verify != X509_V_OK && verify != X509_V_ERR_UNSPECIFIED)
				snprintf(error, size,
						 "could not verify the server's certificate: %s",
						 X509_verify_cert_error_string(verify));
			else
				strlcpy(error, "the server's certificate is for another host",
						size);
			break;
		case CURLE_SSL_CONNECT_ERROR:
			if (reason)
				snprintf(error, size, "the TLS handshake failed: %s", reason);
			else
				strlcpy(error, "the TLS handshake failed", size);
			break;
		case CURLE_SSL_CERTPROBLEM:
			strlcpy(error, "the webhook's client certificate or key is unusable",
					size);
			break;
		case CURLE_SSL_CACERT_BADFILE:
			strlcpy(error, has_ca_file ? "could not read chatwebhook.ca_file" :
					"the system has no certificate authorities: install them, or set chatwebhook.ca_file",
					size);
			break;
		case CURLE_GOT_NOTHING:
			strlcpy(error, "the connection was closed without a reply", size);
			break;
		case CURLE_PARTIAL_FILE:
			strlcpy(error, transfer->reply == CWH_REPLY_NONE ?
					"the connection was closed without a reply" :
					"the connection was closed within the reply",
					size);
			break;
		case CURLE_RECV_ERROR:
		case CURLE_SEND_ERROR:
			/* in TLS 1.3 the server judges a client after the handshake */
			if (reason)
				snprintf(error, size, "the server ended the TLS connection: %s",
						 reason);
			else
				strlcpy(error, code == CURLE_SEND_ERROR ?
						"the connection was lost while sending" :
						"the connection was lost while reading the reply",
						size);
			break;
		case CURLE_HTTP2_STREAM:
			reason = stream_error(transfer);
			if (reason)
				snprintf(error, size, "the server ended the HTTP/2 stream: %s",
						 reason);
			else
				strlcpy(error, "the server ended the HTTP/2 stream", size);
			break;
		case CURLE_UNSUPPORTED_PROTOCOL:
		case CURLE_WEIRD_SERVER_REPLY:
			strlcpy(error, "the reply is not HTTP", size);
			break;
		default:
			snprintf(error, size, "%s", curl_easy_strerror((CURLcode) code));
			error[0] = tolower((unsigned char) error[0]);
			break;
	}
}
