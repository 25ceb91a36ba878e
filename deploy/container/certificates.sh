#!/bin/sh
# Obtains a certificate for $DOMAIN by ACME, and renews it: $CERTIFICATES/live/node/fullchain.pem and privkey.pem.
# The authority must reach this program as http://$DOMAIN/.
set -u
: "${DOMAIN:?}" "${CERTIFICATES:?}"
server=${ACME_SERVER:-https://acme-v02.api.letsencrypt.org/directory}
settings=$CERTIFICATES/renewal/node.conf
work=$(mktemp -d)
trap 'rm -rf "$work"; exit 0' TERM INT

while :; do
    when=--keep-until-expiring
    # Certbot would keep what another authority gave, one for trials for instance.
    if [ -f "$settings" ] && ! grep -qxF "server = $server" "$settings"; then when=--force-renewal; fi
    # The name of the directory stays when the domain changes.
    if certbot certonly --non-interactive --agree-tos --server "$server" \
        --register-unsafely-without-email ${ACME_EMAIL:+--email "$ACME_EMAIL"} \
        --standalone --http-01-port "${HTTP_PORT:-8080}" \
        --cert-name node --domain "$DOMAIN" --renew-with-new-domains "$when" \
        --config-dir "$CERTIFICATES" --work-dir "$work" --logs-dir "$work"
    then pause=43200
    else pause=3600 # authorities refuse more than five failures in an hour
    fi
    # In the background: a shell sees a signal when what it waits for can be interrupted.
    sleep "$pause" & wait $!
done
