"""Django's mail: ``SSL_CERT_FILE=ca.pem python send_django.py job.json``."""

import json
import sys
from email.mime.image import MIMEImage
from email.utils import formataddr
from pathlib import Path

import django
from django.conf import settings
from django.core.mail import EmailMultiAlternatives

job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
settings.configure(
    EMAIL_HOST=job["host"],
    EMAIL_PORT=job["port"],
    EMAIL_USE_TLS=True,
    EMAIL_TIMEOUT=30,
    EMAIL_HOST_USER=job["user"] if job["auth"] else "",
    EMAIL_HOST_PASSWORD=job["key"] if job["auth"] else "",
)
django.setup()

message = EmailMultiAlternatives(
    subject=job["subject"],
    body=job["text"],
    from_email=formataddr(job["from"]),
    to=[formataddr(each) for each in job["to"]],
    bcc=[job["bcc"]],
    reply_to=[formataddr(job["reply_to"])],
    headers=job["headers"],
)
message.attach_alternative(job["html"], "text/html")
message.mixed_subtype = "related"
logo = MIMEImage(Path(job["image"]).read_bytes())
logo.add_header("Content-ID", f"<{job['cid']}>")
message.attach(logo)
message.send()
