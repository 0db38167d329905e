"""Attribution graphs: which features of a prompt, through which others, lead to the next token."""
