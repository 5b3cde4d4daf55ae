"""A search page over a bank.

streamlit run examples/streamlit_search.py -- [BANK]
"""

from __future__ import annotations

import sys

import streamlit as st

from embank.errors import EmbankError
from embank.integrations.streamlit import shared_bank

st.title("Search")
# One bank for all sessions of this server, opened by the first that asks.
bank = shared_bank(sys.argv[1] if len(sys.argv) > 1 else "notes.bank", memory="512MB")

names = [info.name for info in bank.collections()]
if not names:
    st.info("The bank is empty: examples/quickstart.py puts documents into it.")
    st.stop()
name = st.selectbox("Collection", names)
question = st.text_input("Question")
if question:
    try:
        for hit in bank.collection(name).search(question, k=5):
            st.markdown(f"**{hit.id}** · {hit.score:.3f}")
            st.text(hit.text)
    except EmbankError as error:
        st.error(error.message)
