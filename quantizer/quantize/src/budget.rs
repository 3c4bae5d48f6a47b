//! Choosing how each product is coded: the least damage for a size or a time, or the least size for
//! a damage.
//!
//! Each product starts in its cheapest form; then the change that removes the most damage for its
//! cost is made again and again, as long as the budget allows. Damages are taken to add up, which
//! holds as far as they are small.

use kinglet::Format;

/// A way to code a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Form {
    /// The format.
    pub(super) format: Format,
    /// What it costs: bytes or seconds.
    pub(super) cost: f64,
    /// What it does to the predictions: divergence, nats.
    pub(super) damage: f64,
}

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    /// The sum of the costs.
    Cost(f64),
    /// The sum of the damages.
    Damage(f64),
}

/// Which form each product gets. An error tells how near one can come.
pub(super) fn choose(products: &[Vec<Form>], limit: Limit) -> Result<Vec<usize>, f64> {
    let cheapest = |forms: &Vec<Form>| {
        let order = |&a: &usize, &b: &usize| {
            let by_cost = forms[a].cost.total_cmp(&forms[b].cost);
            by_cost.then(forms[a].damage.total_cmp(&forms[b].damage))
        };
        (0..forms.len()).min_by(order).unwrap_or(0)
    };
    let mut chosen: Vec<usize> = products.iter().map(cheapest).collect();
    let sum = |chosen: &[usize], of: fn(&Form) -> f64| -> f64 {
        products.iter().zip(chosen).map(|(forms, &i)| of(&forms[i])).sum()
    };
    if let Limit::Cost(most) = limit {
        let least = sum(&chosen, |form| form.cost);
        if least > most {
            return Err(least);
        }
    }
    loop {
        let (cost, damage) = (sum(&chosen, |form| form.cost), sum(&chosen, |form| form.damage));
        if let Limit::Damage(most) = limit
            && damage <= most
        {
            return Ok(chosen);
        }
        let mut best: Option<(f64, usize, usize)> = None;
        for (product, forms) in products.iter().enumerate() {
            let now = forms[chosen[product]];
            for (form, other) in forms.iter().enumerate() {
                let (more, won) = (other.cost - now.cost, now.damage - other.damage);
                let affordable = match limit {
                    Limit::Cost(most) => cost + more <= most,
                    Limit::Damage(_) => true,
                };
                // What costs nothing comes first.
                let worth = if more > 0.0 { won / more } else { f64::INFINITY };
                if won > 0.0 && affordable && best.is_none_or(|(most, ..)| worth > most) {
                    best = Some((worth, product, form));
                }
            }
        }
        match (best, limit) {
            (Some((_, product, form)), _) => chosen[product] = form,
            (None, Limit::Cost(_)) => return Ok(chosen),
            (None, Limit::Damage(_)) => return Err(damage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(low: f64, high: f64, size: f64) -> Vec<Form> {
        vec![
            Form { format: Format::Int8, cost: 8.0 * size, damage: low },
            Form { format: Format::Int4Codebook, cost: 4.25 * size, damage: high },
        ]
    }

    #[test]
    fn the_budget_goes_where_it_helps_most() {
        let products = [product(0.0, 1.0, 1.0), product(0.0, 3.0, 1.0), product(0.0, 4.0, 4.0)];
        let formats = |limit| {
            choose(&products, limit)
                .map(|chosen| chosen.iter().map(|&i| products[0][i].format).collect())
        };
        let (low, high) = (Format::Int4Codebook, Format::Int8);
        assert_eq!(formats(Limit::Cost(25.5)), Ok(vec![low; 3]));
        assert_eq!(formats(Limit::Cost(29.5)), Ok(vec![low, high, low]));
        assert_eq!(formats(Limit::Cost(40.0)), Ok(vec![high, high, low]));
        assert_eq!(formats(Limit::Cost(1e9)), Ok(vec![high; 3]));
        assert_eq!(formats(Limit::Cost(25.0)), Err(25.5));
        assert_eq!(formats(Limit::Damage(5.0)), Ok(vec![low, high, low]));
        assert_eq!(formats(Limit::Damage(0.0)), Ok(vec![high; 3]));
        assert_eq!(formats(Limit::Damage(-1.0)), Err(0.0));
    }
}
