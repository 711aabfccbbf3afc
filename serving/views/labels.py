"""The words of the workbook, in one place: sheet names, headings, what to do, column headings.

A column such as ``clv_12m_low`` is worded by its stem and its months, so that every horizon needs
one entry. A name that has no entry is shown as it is.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["COLUMNS", "TEXTS", "heading", "kind", "text"]

PARTS: Final = re.compile(r"(?P<stem>.+?)_(?P<months>\d+)m(?:_(?P<end>\w+))?")
SHARES: Final = re.compile(
    r"(share|active|churn_\d+m|repeat_rate|repeat_low|repeat_high|retention(_low|_high)?|"
    r"(repeat_rate|retention)_\d+m|loyal_rate|roi(_low|_high)?|stayed_\d+m(_low|_high)?|low|high|"
    r"bias(_low|_high)?|wape|base_rate|capture_\d+|decile_mape|below|inside|above)"
)
COUNTS: Final = re.compile(
    r"customers|n|month|prospects|past_orders|signups|since|rank|layer|covered|base|one_category|"
    r"realised_\d+m_customers|payback_month(_low|_high)?"
)
NUMBERS: Final = re.compile(
    r"ltv_to_cac(_low|_high)?|orders(_per_month|_\d+m)?|active_months_\d+m|categories|"
    r"mean_life(_low|_high|_within)?"
)
FINE: Final = re.compile(
    r"auroc|average_precision|normalised_gini|spearman|brier|log_loss|ece|lift_\d+"
)

TEXTS: Final[dict[str, str]] = {
    "title": "Customer value report",
    "subtitle": "As of {as_of}, the next {months} months, money in {currency}, model {version}.",
    "missing": "Not here yet. To add: {what}",
    "page": "Page",
    "elsewhere": "{title}: in the workbook (--out clv.xlsx).",
    "sheet.figures": "Key figures",
    "sheet.product": "Product",
    "sheet.experience": "Customer experience",
    "sheet.marketing": "Marketing",
    "sheet.sales": "Sales",
    "sheet.segments": "Segments",
    "sheet.channels": "Channels",
    "sheet.cohorts": "Cohorts",
    "sheet.targets": "Target list",
    "sheet.quality": "Model quality",
    "sheet.customers": "Customers",
    "lead.figures": "Sums over all customers; low and high hold the truth in 8 of 10 cases.|Value "
    "at risk is what is lost on average by leaving the customers alone.",
    "lead.product": "For product: what brings a customer back, and which categories reach whom."
    "|Do: "
    "offer a second category to segments that buy of one only.|Do: see whether customers come back "
    "sooner, and earn more, than those of the periods before (Cohorts).",
    "lead.experience": "For customer experience: who is content, who slips away, what that costs."
    "|Do: call the slipping customers below, those at the top first.|Do: mend what low scores "
    "complain of, where low scores go with low retention.",
    "lead.marketing": "For marketing: where the next customer pays, and what to do with each "
    "segment.|Do: move money to channels with a high LTV : CAC whose interval stays above 1.|Do: "
    "contact the target list only, and leave its control group alone to measure the effect.",
    "lead.sales": "For sales: whom to look after, and whom to call before they leave.|Do: know the "
    "most valuable customers by name, and ask those whose next order is overdue.|Do: never spend "
    "more on keeping one than their value at risk.",
    "lead.segments": "Every customer is in exactly one segment; each has one next step.",
    "lead.channels": "A customer belongs to the channel and month they were won in. Intervals hold "
    "the truth in 8 of 10 cases.",
    "lead.cohorts": "Customers by the period of their first order, and what became of them. Whole "
    "periods only.",
    "lead.targets": "Ranked by value at risk that a contact may save. Leave the arm 'control' "
    "alone: only it tells what the contacts brought.",
    "lead.quality": "The model was tested on a past moment whose future it had not seen, beside "
    "simpler ways. WAPE, MAE, RMSE, Brier and log loss: less is better.",
    "lead.customers": "Every customer of the predictions, sorted by id.",
    "part.figures": "Key figures",
    "part.segments": "Segments",
    "part.steps": "What to do with each segment",
    "part.leaving": "Who leaves, by segment",
    "part.categories": "Categories that reach each segment",
    "part.channels": "Channels",
    "part.ltv": "What a customer has brought and will bring",
    "part.return": "What comes back for the money",
    "part.ahead": "Value ahead and retention",
    "part.stays": "How long customers stay, by channel",
    "part.economics": "What a customer costs and brings",
    "part.retention": "Retention by channel",
    "part.surveys": "Retention by survey score and membership",
    "part.active": "Share with an order, by periods since the first one",
    "part.cohorts": "Every cohort and period since; money per customer of the cohort",
    "part.all": "All cohorts together; money per customer",
    "part.targets": "Target list",
    "part.first": "First of the target list",
    "part.slipping": "Worth much and likely to leave",
    "part.best": "Worth most in the months ahead",
    "part.quality": "Out-of-time test",
    "part.tracking": "Predicted and real revenue since the test began, month by month",
    "part.slices": "By group of customers (bias 0: totals agree)",
    "part.coverage": "Shares of customers below, inside and above their interval of 80 %",
    "part.customers": "Customers",
    "chart.value": "Value by segment",
    "chart.map": "Segment map: churn and value per customer",
    "chart.channels": "LTV and CAC per new customer",
    "chart.ratio": "LTV : CAC",
    "chart.active": "Share with an order",
    "chart.margin": "Margin so far per customer",
    "chart.leaving": "Churn by segment",
    "chart.tracking": "Predicted and real revenue",
}

COLUMNS: Final[dict[str, str]] = {
    "figure": "Figure", "value": "Value", "low": "Low", "high": "High", "segment": "Segment",
    "customers": "Customers", "prospects": "Prospects", "share": "Share", "clv": "Value",
    "clv_per_customer": "Value per customer", "churn": "Churn", "orders": "Orders",
    "revenue": "Revenue", "orders_per_month": "Orders per month", "order_value": "Order value",
    "active_months": "Active months", "categories": "Categories", "one_category":
    "Customers of one category", "next_step": "Next step", "channel": "Channel", "cohort": "Cohort",
    "spend": "Spend", "fees": "Fees", "cost": "Cost", "signups": "Sign-ups", "note": "Note",
    "cpa": "Cost per sign-up", "cac": "CAC", "ltv": "LTV", "ltv_to_cac": "LTV : CAC", "roi": "ROI",
    "payback_month": "Payback month", "realised": "Realised value", "ahead": "Value ahead",
    "repeat_rate": "Repeat rate", "repeat": "Repeat rate", "retention": "Retention",
    "since": "Periods since", "active": "Share with an order", "margin": "Margin",
    "revenue_so_far": "Revenue so far", "margin_so_far": "Margin so far",
    "customer_id": "Customer", "rank": "Rank", "arm": "Arm", "offer": "Offer", "layer": "Layer",
    "gain": "Expected gain", "gain_sd": "Gain, standard deviation", "evidence": "Evidence",
    "next_order_on": "Next order on", "reasons": "Reasons", "metric": "Metric",
    "past_orders": "Orders so far", "past_revenue": "Revenue so far", "past_margin":
    "Margin so far", "total": "Past and future value", "keep_at_most": "Value at risk",
    "win_at_most": "Most to spend to win one more", "category": "Category",
    "source": "Known before",
    "level": "Level", "covered": "Customers asked", "base": "Customers before",
    "loyal_rate": "Three orders or more", "stayed": "Stays", "mean_life": "Mean life in months",
    "mean_life_within": "Of the first months", "slice": "Slice", "group": "Group", "n": "Customers",
    "bias": "Bias of the total", "wape": "WAPE", "mae": "MAE", "auroc": "AUROC",
    "normalised_gini": "Normalised Gini", "below": "Below", "inside": "Inside", "above": "Above",
    "month": "Month", "predicted": "Predicted", "actual": "Real", "rmse": "RMSE",
    "spearman": "Rank correlation (Spearman)", "decile_mape": "Error by decile (MAPE)",
    "average_precision": "Average precision", "base_rate": "Share that left",
    "brier": "Brier score", "log_loss": "Log loss", "ece": "Calibration error (ECE)",
    "capture_1": "Value caught by the top 1 %", "capture_5": "Value caught by the top 5 %",
    "capture_10": "Value caught by the top 10 %", "capture_20": "Value caught by the top 20 %",
    "lift_5": "Lift of the top 5 %", "lift_10": "Lift of the top 10 %",
    "lift_20": "Lift of the top 20 %",
}  # fmt: skip
ENDS: Final[dict[str, str]] = {
    "": "{stem}, {months} months",
    "low": "{stem}, {months} months, low",
    "high": "{stem}, {months} months, high",
    "per_customer": "{stem} per customer, {months} months",
    "customers": "{stem}, {months} months, customers",
}
PLAIN_ENDS: Final[dict[str, str]] = {"low": "{stem}, low", "high": "{stem}, high"}


def text(key: str, **names: object) -> str:
    """The text of a key, with what it names filled in."""
    return TEXTS[key].format(**names) if names else TEXTS[key]


def heading(column: str) -> str:
    """The heading of a column."""
    if column in COLUMNS:
        return COLUMNS[column]
    stem, _, end = column.rpartition("_")
    if end in PLAIN_ENDS and stem in COLUMNS:
        return PLAIN_ENDS[end].format(stem=COLUMNS[stem])
    found = PARTS.fullmatch(column)
    end = (found["end"] or "") if found else ""
    if not found or found["stem"] not in COLUMNS or end not in ENDS:
        return column
    return ENDS[end].format(stem=COLUMNS[found["stem"]], months=found["months"])


def kind(column: str) -> str:
    """How numbers of a column are shown: share, count, number, fine or money."""
    kinds = {"share": SHARES, "count": COUNTS, "number": NUMBERS, "fine": FINE}
    return next((name for name, known in kinds.items() if known.fullmatch(column)), "money")
